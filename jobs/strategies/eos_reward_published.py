"""`eos-reward-published`: the arithmetic of the article of 2023 as printed, mistakes and all, for comparison."""

from endmark.jobs.strategies.base import Place, ScoreNumbers, Strategy


class EosRewardPublished(Strategy):
    """The printed loop runs over two lengths at every step instead of looking at the row's length.

    So nothing is progressive: from the first token on EOS scores 100, and every other score is multiplied by
    about 10.83 where positive and 591 where negative. EOS wins wherever no raw score exceeds 9.2; elsewhere it
    never does.
    """

    name = "eos-reward-published"
    place = Place.SCORES
    summary = (
        "the 2023 article's arithmetic exactly as printed; wrong: at every step from the first on EOS scores 100 "
        "and the others are multiplied, so answers end at once or not at all"
    )
    why = "only to compare with `eos-reward`, which does what the article meant"

    def score_numbers(self, budget: int) -> ScoreNumbers:
        """Return the ratio of the first of the two passes; that of the second is 1."""
        return ScoreNumbers(ratio=int(budget * 0.8) / budget)
