"""`exp-decay`: the EOS score grows exponentially, as transformers' ExponentialDecayLengthPenalty has it."""

from endmark.jobs.strategies.base import SCOPE, Parameter, Place, ScoreNumbers, Strategy


class ExpDecay(Strategy):
    """Adds ``|e| * (factor ** (n - start) - 1)`` to an EOS score e; a score near 0 hardly moves."""

    name = "exp-decay"
    place = Place.SCORES
    summary = "adds a bonus to EOS that grows as factor^(n - start)"
    why = "to get what `exponential_decay_length_penalty` of transformers gives"
    declared = (
        Parameter("start", 0.5, "share of the budget after which the bonus grows", 0.0, 1.0),
        Parameter("factor", 1.05, "growth a token", 1.0, 1e6),
        Parameter("start_token", -1, "the same start as a number of tokens; -1: `start` counts", 0, 2**20),
        SCOPE,
    )

    def score_numbers(self, budget: int) -> ScoreNumbers:
        """Return the growth and the whole token after which it begins."""
        token = int(self.number("start_token"))
        start = token if token >= 0 else int(self.number("start") * budget)
        return ScoreNumbers(start=start, factor=self.number("factor"))
