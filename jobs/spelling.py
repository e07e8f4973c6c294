"""Words in messages: the nearest known one, nouns behind their numbers, bytes, and ages."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint that names the nearest known word, or `otherwise` if none is near."""
    spellings = {item.lower(): item for item in known}
    near = difflib.get_close_matches(word.lower(), spellings, n=1, cutoff=0.5)
    return f"did you mean `{spellings[near[0]]}`?" if near else otherwise


def counted(count: int, noun: str) -> str:
    """Return a number of things, such as `1 row` or `2 rows`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def size(count: int) -> str:
    """Return a number of bytes, such as `12 bytes`, `4.5 kB`, `12.3 MB` or `13.5 GB`."""
    if count < 1000:
        return counted(count, "byte")
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e5 else (1e3, "kB")
    return f"{count / unit:.1f} {name}"


def speed(tokens_per_second: float) -> str:
    """Return a speed, such as `1 token/s` or `1,204 tokens/s`."""
    return f"{counted(round(tokens_per_second), 'token')}/s"


def as_percent(share: float, digits: int = 0) -> str:
    """Return a share, such as `40 %`."""
    return f"{100 * share:.{digits}f} %"


def age(seconds: float) -> str:
    """Return how long ago something was, such as `3 minutes`, `5 hours` or `12 days`."""
    unit, name = (
        (86400, "day") if seconds >= 2 * 86400 else (3600, "hour") if seconds >= 2 * 3600 else (60, "minute")
    )
    return counted(max(0, int(seconds // unit)), name)


def ago(seconds: float) -> str:
    """Return when something was, such as `just now` or `5 hours ago`."""
    return "just now" if seconds < 60 else f"{age(seconds)} ago"
