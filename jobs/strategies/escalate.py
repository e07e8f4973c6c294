"""`escalate`: a truncated row is tried again with the next strategy of a list."""

from collections.abc import Sequence

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies.base import FollowUp, Parameter, Place, Strategy
from endmark.jobs.vocabulary import Attempt


class Escalate(Strategy):
    """Starts a truncated row again under the next strategy, which takes the place of its score strategy."""

    name = "escalate"
    place = Place.AFTER
    summary = "a truncated row is tried again with the next strategy of a list"
    why = "to leave the answers that end alone and help only those that do not"
    declared = (
        Parameter(
            "to",
            ("soft-landing", "eos-reward"),
            "what to try next, written as for `--strategy`; may be given several times",
        ),
    )

    def validate(self) -> None:
        """Read the strategies of the list."""
        from endmark.jobs.strategies import build_strategies

        self.steps = tuple(build_strategies([text]) for text in self.strings("to"))
        for step in self.steps:
            for strategy in step:
                if strategy.place in (Place.AFTER, Place.NOWHERE):
                    raise SpecError(
                        f"strategy `escalate`: cannot go to `{strategy.name}`",
                        hint="name strategies that change the prompt, the scores or where an answer is cut",
                    )

    def follow_up(self, attempts: Sequence[Attempt], strategies: Sequence[Strategy]) -> FollowUp | None:
        """Return a fresh start under the step behind the last one in force; None at the end of the list."""
        del attempts
        in_force = [index for index, step in enumerate(self.steps) if all(item in strategies for item in step)]
        following = max(in_force, default=-1) + 1
        if following == len(self.steps):
            return None
        return FollowUp(keep_text=False, strategies=_replaced(strategies, self.steps[following]))


def _replaced(strategies: Sequence[Strategy], step: tuple[Strategy, ...]) -> tuple[Strategy, ...]:
    """Return the strategies with those of the step for the ones of the same name, or that set the scores."""
    names = {item.name for item in step}
    scores = any(item.place is Place.SCORES for item in step)
    kept = (
        item
        for item in strategies
        if item.place is not Place.NOWHERE
        and item.name not in names
        and not (scores and item.place is Place.SCORES)
    )
    return (*kept, *step)
