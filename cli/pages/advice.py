"""Which of several strategies to take, and why, in words that give the figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from endmark.cli.pages.arms import Arm
from endmark.cli.pages.intervals import Interval, paired_p
from endmark.jobs.spelling import as_percent
from endmark.jobs.vocabulary import End, EosSource, FinishReason

_FORCED, _BOOSTED = EosSource.FORCED, EosSource.BOOSTED
_CHANCE = 0.05  # a difference that chance brings about more often is none


@dataclass(frozen=True, slots=True)
class Advice:
    """The arm recommended, and the reasons, a sentence each."""

    arm: Arm
    reasons: tuple[str, ...]


def recommend(arms: Sequence[Arm]) -> Advice | None:
    """Return the arm to take; None where there is nothing to choose between.

    Those that are not distinguishably worse than the one with the most complete answers are equals. Of equals the
    one whose answers were least interfered with wins: the most natural ends, then the fewest tokens.
    """
    compared = [arm for arm in arms if arm.total]
    if len(compared) < 2:
        return None
    best = max(compared, key=lambda arm: arm.complete.value)
    equals = [arm for arm in compared if _p(best, arm) > _CHANCE]
    chosen = max(equals, key=lambda arm: (round(arm.by_itself, 2), -arm.tokens.value, -compared.index(arm)))
    reasons = [
        f"{percent(chosen.complete)} of its answers are complete, with {chosen.tokens.value:.0f} tokens on average"
    ]
    reasons += [_against(chosen, arm, best, equals) for arm in compared if arm is not chosen]
    return Advice(chosen, tuple(reasons))


def percent(share: Interval) -> str:
    """Return a share with its interval."""
    return f"{as_percent(share.value)} ({as_percent(share.low)} to {as_percent(share.high)})"


def _p(one: Arm, other: Arm) -> float:
    """Return how probable it is that two arms differ so by chance."""
    return paired_p(len(one.complete_rows - other.complete_rows), len(other.complete_rows - one.complete_rows))


def _against(chosen: Arm, arm: Arm, best: Arm, equals: Sequence[Arm]) -> str:
    """Return why one arm was not chosen."""
    figures = f"`{arm.label}`: {percent(arm.complete)} complete"
    if arm not in equals:
        return f"{figures}, which is fewer than chance explains"
    told_apart = "no fewer" if arm is best else "not distinguishable from the best on these rows"
    forced, boosted = (arm.share(End(FinishReason.EOS, source)).value for source in (_FORCED, _BOOSTED))
    if round(arm.by_itself, 2) < round(chosen.by_itself, 2):
        return (
            f"{figures}, {told_apart}, but fewer ended by themselves: "
            f"{as_percent(arm.by_itself)} against {as_percent(chosen.by_itself)}"
            f" ({as_percent(boosted)} boosted, {as_percent(forced)} forced)"
        )
    if arm.tokens.value > chosen.tokens.value:
        return (
            f"{figures}, {told_apart}, but longer: {arm.tokens.value:.0f} against {chosen.tokens.value:.0f} tokens"
        )
    return f"{figures}, {told_apart}; given later"
