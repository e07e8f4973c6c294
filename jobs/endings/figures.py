"""Figures in what repeats: whether they tell something new, or the lines around them say one thing again."""

import re
from collections import Counter
from collections.abc import Iterator

from endmark.jobs.endings.returning import Loop

_RECENT, _COUNTED = 10, 3  # numbers that are remembered, and how far a counter may jump
_SAME_KEYS = 6  # lines with one figure from which on half of them with the same words say nothing new
_ROWS, _ROW_TELLS = 5, 4  # rows that are alike but for figures; to each one that is new, how many are not
_PHRASE = 3  # words beside a figure that make a line a phrase
_MARKED_LINE = re.compile(r"^[ \t]*(?:[-*+•]|\d+[.)])?[ \t]*(.*)$", re.MULTILINE)
_FIGURE = re.compile(r"\d[\d.,]*")
_KEY = re.compile(r"\w.*:\s*0")
_SPELLED = re.compile(r"[^\W\d_]{2,}")
_CODE_SIGNS = frozenset("=_({")


def says_one_thing(text: str) -> bool:
    """Whether half of the lines have the same words, with one figure in each."""
    lines = [(_FIGURE.sub("0", line), set(_FIGURE.findall(line))) for line in _MARKED_LINE.findall(text)]
    keys = [line for line, figures in lines if len(figures) == 1 and (_KEY.match(line) or _is_phrase(line))]
    return len(keys) >= _SAME_KEYS and 2 * Counter(keys).most_common(1)[0][1] >= len(keys)


def counting_rows(text: str) -> Iterator[Loop]:
    """Yield the lines at the end of a text that are alike but for figures which only count, from the third on.

    A paragraph may stand behind them.
    """
    for end in (len(text), max(0, text.rstrip().rfind("\n\n"))):
        yield from _counting_rows(text[:end].rstrip())


def _counting_rows(text: str) -> Iterator[Loop]:
    """See `counting_rows`, for a text that ends with them."""
    last = text[text.rfind("\n") + 1 :]
    if not any(map(str.isdecimal, last)):
        return
    rows, at = [], len(text)
    for line in reversed(text.splitlines(keepends=True)):
        at -= len(line)
        if line.strip():
            if _shape_of(line) != _shape_of(last):
                break
            rows.append((at, line))
    if len(rows) < _ROWS:
        return
    rows.reverse()
    numbers = [number[:8] for _, line in rows for number in re.findall(r"\d+", line)]
    if _ROW_TELLS * telling(numbers, counting_tells=False) <= len(numbers):
        yield Loop(rows[2][0], rows[3][0])


def _shape_of(line: str) -> str:
    """Return a line without its spaces, all its figures alike."""
    return _FIGURE.sub("0", "".join(line.split()))


def _is_phrase(line: str) -> bool:
    """Whether a line has three words and more, and is no code."""
    return _CODE_SIGNS.isdisjoint(line) and len(_SPELLED.findall(line)) >= _PHRASE


def telling(numbers: list[str], *, counting_tells: bool) -> int:
    """Return how many of the numbers are new: not among the last few, nor a little above one of them."""
    new = 0
    recent: list[int] = []
    for number in map(int, numbers):
        known = number in recent
        counted = not counting_tells and any(0 < number - before <= _COUNTED for before in recent)
        new += not known and not counted
        recent = [*recent[1 - _RECENT :], number]
    return new
