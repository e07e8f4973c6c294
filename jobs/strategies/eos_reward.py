"""`eos-reward`: EOS rises towards the end of the row's own budget and is certain there."""

from endmark.jobs.strategies.base import SCOPE, Parameter, Place, ScoreNumbers, Strategy


class EosReward(Strategy):
    """What the article of 2023 meant: progressive from `start`, certain at the last budgeted token."""

    name = "eos-reward"
    place = Place.SCORES
    summary = "raises EOS progressively from a share of the row's own budget; certain at the end of it"
    why = "when every row must end with EOS inside its budget, even in the middle of a sentence"
    declared = (
        Parameter("start", 0.8, "share of the budget from which EOS rises", 0.0, 1.0),
        Parameter("power", 1.0, "shape of the rise: 1 straight, more is later and steeper", 0.01, 100.0),
        Parameter("margin", 5.0, "score by which EOS leads the best other token in the end", 0.0, 1e6),
        SCOPE,
    )

    def score_numbers(self, budget: int) -> ScoreNumbers:
        """Return the ramp to the last budgeted token, at which EOS is forced."""
        return ScoreNumbers(
            start=self.number("start") * budget,
            full=budget - 1,
            power=self.number("power"),
            margin=self.number("margin"),
            force_at=budget - 1,
        )
