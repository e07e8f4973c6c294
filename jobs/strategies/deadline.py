"""`deadline`: every answer ends with EOS inside its budget, at a landing spot where one comes in time."""

from dataclasses import replace

from endmark.jobs.strategies.base import ScoreNumbers
from endmark.jobs.strategies.soft_landing import SoftLanding


class Deadline(SoftLanding):
    """A soft landing whose last budgeted token is EOS, whatever the text is then."""

    name = "deadline"
    summary = "as soft-landing, and where no landing spot came, EOS at the last token of the budget"
    why = "when every row must end with EOS, and whole wherever it can: training data, say"

    def score_numbers(self, budget: int) -> ScoreNumbers:
        """Return the ramp of a soft landing, and the last budgeted token, at which EOS is forced."""
        return replace(super().score_numbers(budget), force_at=budget - 1)
