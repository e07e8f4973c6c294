"""`continue`: a truncated row goes on from where it stopped."""

from collections.abc import Sequence
from itertools import takewhile

from endmark.jobs.strategies.base import FollowUp, Parameter, Place, Strategy
from endmark.jobs.vocabulary import Attempt, FinishReason


class Continue(Strategy):
    """Gives a truncated row a new budget behind its own text, a bounded number of times.

    A row that ended in a loop does not go on, since it would go on looping.
    """

    name = "continue"
    place = Place.AFTER
    summary = "a truncated row goes on from its own text with a new budget, a bounded number of times"
    why = "when the answer matters more than its length, and a few rows need more than the others"
    declared = (
        Parameter("times", 2, "how often a row may go on", 1, 1000),
        Parameter("max_new_tokens", 0, "the budget of each further attempt; by default the row's own", 1, 2**20),
    )

    def follow_up(self, attempts: Sequence[Attempt], strategies: Sequence[Strategy]) -> FollowUp | None:
        """Return the same again behind the text so far; None when it has gone on often enough."""
        last = attempts[-1]
        same = list(takewhile(lambda attempt: attempt.strategies == last.strategies, reversed(attempts)))
        before = same[1].completion_tokens if len(same) > 1 else 0
        looped = last.verdict.finish_reason is FinishReason.REPETITION
        if looped or last.completion_tokens <= before or len(same) > self.number("times"):
            return None
        return FollowUp(
            keep_text=True,
            strategies=tuple(strategies),
            max_new_tokens=int(self.number("max_new_tokens")) or None,
        )
