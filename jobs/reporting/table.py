"""The table of a report, for the page and the terminal alike."""

from endmark.jobs.reporting.arms import Arm
from endmark.jobs.reporting.intervals import Interval
from endmark.jobs.vocabulary import ENDS, EosSource

_SHOWN = [end for end in ENDS if end.counter and end.source is not EosSource.UNKNOWN]


def headings(whole: int | None) -> list[str]:
    """Return the names of the columns.

    Args:
        whole: rows of the dataset that the jobs are a sample of; None if they are none.
    """
    names = [
        "strategy",
        "complete",
        *(end.label for end in _SHOWN),
        "truncated",
        "ends a sentence",
        "in a loop",
        "tokens",
        "tokens/s",
    ]
    return names if whole is None else [*names, f"{whole:,} rows"]


def cells(arm: Arm, whole: int | None) -> list[tuple[str, str]]:
    """Return an arm's values in the order of the headings, each with its interval or an empty text."""
    values = [(arm.label, ""), _share(arm.complete)]
    values += [_share(arm.share(end)) for end in _SHOWN]
    values += [_share(arm.truncated), _share(arm.at_sentence_end), _share(arm.looped)]
    tokens = arm.tokens
    values.append((f"{tokens.value:.0f}", f"{tokens.low:.0f}–{tokens.high:.0f}"))
    values.append((f"{arm.tokens_per_second:,.0f}" if arm.tokens_per_second else "–", ""))
    if whole is not None:
        seconds = arm.seconds_for(whole)
        values.append((_clock(seconds) if seconds is not None else "–", ""))
    return values


def _share(share: Interval) -> tuple[str, str]:
    """Return a share and its interval."""
    return f"{share.value:.0%}", f"{share.low:.0%}–{share.high:.0%}"


def _clock(seconds: float) -> str:
    """Return a span of time as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
