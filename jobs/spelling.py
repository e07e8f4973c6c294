"""Words in messages: the nearest known one, nouns behind their numbers, and bytes."""

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
    """Return a number of bytes, such as `12.3 MB` or `13.5 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
