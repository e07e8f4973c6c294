"""`last-call`: EOS rises over the last tokens of the budget, wherever the text stands."""

from endmark.jobs.strategies.base import Parameter, Place, ScoreNumbers, Strategy


class LastCall(Strategy):
    """Leads EOS past the best other token by the end of the budget."""

    name = "last-call"
    place = Place.SCORES
    summary = "raises EOS over the last tokens of the budget"
    why = "when an answer must end within its budget, and it does not matter where"
    declared = (Parameter("tokens", 16, "tokens before the end of the budget in which EOS rises", 1, 2**20),)

    def score_numbers(self, budget: int) -> ScoreNumbers:
        """Return the ramp over the last tokens."""
        start = max(0.0, budget - self.number("tokens"))
        return ScoreNumbers(start=start, full=float(budget - 1), margin=10.0)
