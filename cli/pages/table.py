"""The table of a report, for the page and the terminal alike; columns in which all arms have none are folded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from endmark.cli.pages.arms import Arm
from endmark.cli.pages.intervals import Interval
from endmark.jobs.spelling import as_percent
from endmark.jobs.vocabulary import ENDS, End, EosSource


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and its 95 % interval or an empty text."""

    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """What is shown of all arms."""

    headings: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]  # an arm each, in the order of the headings
    folded: tuple[str, ...]  # headings of columns left out, since each of their values is none; unusual ones apart


@dataclass(frozen=True, slots=True)
class _Share:
    """A column of shares of all rows."""

    heading: str
    of: Callable[[Arm], Interval]
    always: bool = False  # whether it stays, though all its values are none
    told: bool = True  # whether it is named where it is folded
    speaks_of: Callable[[Arm], int] = lambda _: 0  # rows of an arm for which it stays too


def _end_column(end: End) -> _Share:
    """Return the column of one way to end."""
    usual = end.counter is not None and end.source is not EosSource.UNKNOWN
    return _Share(end.label, lambda arm: arm.share(end), told=usual)


_SHARES = (
    _Share("complete", lambda arm: arm.complete, always=True),
    _Share("valid", lambda arm: arm.valid, told=False, speaks_of=lambda arm: arm.shaped),
    *map(_end_column, ENDS),
    _Share("truncated", lambda arm: arm.truncated, always=True),
    _Share("ends a sentence", lambda arm: arm.at_sentence_end),
    _Share("in a loop", lambda arm: arm.looped),
    _Share("in a thought", lambda arm: arm.ended_in_thought, told=False),
)


def tabled(arms: Sequence[Arm], whole: int | None) -> Table:
    """Return the table.

    Args:
        arms: the lines.
        whole: rows of the dataset that the jobs are a sample of; None if they are none.
    """
    shown = [
        column
        for column in _SHARES
        if column.always or any(column.of(arm).value or column.speaks_of(arm) for arm in arms)
    ]
    folded = tuple(column.heading for column in _SHARES if column.told and column not in shown)
    names = ["strategy", *(column.heading for column in shown), "tokens", "tokens/s"]
    lines = []
    for arm in arms:
        line = [Cell(arm.label), *(_share(column.of(arm)) for column in shown)]
        tokens = arm.tokens
        line.append(Cell(f"{tokens.value:.0f}", f"{tokens.low:.0f}–{tokens.high:.0f}"))
        line.append(Cell(f"{arm.tokens_per_second:,.0f}" if arm.tokens_per_second else "–"))
        if whole is not None:
            seconds = arm.seconds_for(whole)
            line.append(Cell(_clock(seconds) if seconds is not None else "–"))
        lines.append(tuple(line))
    return Table(tuple(names if whole is None else [*names, f"{whole:,} rows"]), tuple(lines), folded)


def _share(share: Interval) -> Cell:
    """Return a share and its interval."""
    return Cell(as_percent(share.value), f"{share.low * 100:.0f}–{as_percent(share.high)}")


def _clock(seconds: float) -> str:
    """Return a span of time as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
