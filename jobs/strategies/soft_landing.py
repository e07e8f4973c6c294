"""`soft-landing`: EOS rises only at landing spots, so that the answer ends whole."""

from typing import ClassVar

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies.base import SCOPE, Parameter, Place, ScoreNumbers, Strategy


def landing_parameters(start: float, firm: float) -> tuple[Parameter, ...]:
    """Return the parameters of a landing with these defaults, as shares of the budget."""
    return (
        Parameter("start", start, "share of the budget from which landing spots are favoured", 0.0, 1.0),
        Parameter(
            "firm",
            firm,
            "share from which the next landing spot is certain to be taken; half-way from `start` to the end "
            "where that begins later",
            0.0,
            1.0,
        ),
        Parameter("bar", 6.0, "nats below certainty that EOS may be at a spot shortly before `firm`", 0.0, 80.0),
        Parameter("margin", 20.0, "score by which EOS leads the best other token where it is raised", 0.0, 1e6),
        Parameter(
            "power", 2.0, "with it, or `bar=0`, EOS rises by degrees: 1 straight, more is later", 0.01, 100.0
        ),
    )


class SoftLanding(Strategy):
    """Takes a good landing spot as the answer's end, and any from `firm` on; see `jobs.landing`.

    How good a spot is says the model itself, by its EOS probability there. The bar that it must pass falls from
    certainty at `start` to `exp(-bar)` at `firm`, the faster the nearer `start`.
    """

    name = "soft-landing"
    place = Place.SCORES
    summary = "raises EOS only where a sentence, an item or a block has just ended, and more the nearer the budget"
    why = "when answers must be complete: the best choice for most jobs"
    declared: ClassVar[tuple[Parameter, ...]] = (*landing_parameters(start=0.6, firm=0.8), SCOPE)

    def validate(self) -> None:
        """Check that the rise has room."""
        start = self.number("start")
        self.firm = self.number("firm")
        if "firm" not in self.given and start >= self.firm:
            self.firm = (start + 1) / 2
        if start >= self.firm:
            raise SpecError(
                f"strategy `{self.name}`: start={start:g} must be below firm={self.firm:g}",
                hint="leave `firm` out, and it follows `start`" if start < 1 else "for example start=0.9",
            )

    def score_numbers(self, budget: int) -> ScoreNumbers:
        """Return the ramp between the two shares of the budget."""
        return ScoreNumbers(
            start=self.number("start") * budget,
            full=self.firm * budget,
            power=self.number("power"),
            margin=self.number("margin"),
            after_sentence=True,
            bar=0.0 if "power" in self.given and "bar" not in self.given else self.number("bar"),
        )
