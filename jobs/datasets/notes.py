"""What is worth a word about a dataset that can be used: each kind once, counted, with its first line."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from endmark.jobs.spelling import counted

_SHOWN = 20  # notes: a value that is another in each row makes one for each


class Notes:
    """The notes on one dataset, gathered while its rows are read and checked."""

    def __init__(self) -> None:
        self._found: dict[str, list[int]] = {}
        self._ranges: dict[str, list[float]] = {}

    def add(self, text: str, line: int, count: int = 1) -> None:
        """Count more rows of which the text speaks, one by default; the first of them begins in a line."""
        self._found.setdefault(text, [0, line])[0] += count

    def add_options(self, overrides: Mapping[str, Any]) -> None:
        """Take in what a row's own columns set, as `RowRequest.overrides` has it."""
        for name, value in overrides.items():
            bounds = self._ranges.setdefault("strategy" if name == "strategies" else name, [])
            if isinstance(value, int | float):
                bounds[:] = [min([*bounds[:1], value]), max([*bounds[1:], value])]

    def _options(self) -> list[str]:
        """Say which columns set options of their rows, and in what range."""
        listed = [f"`{name}`{_range(bounds)}" for name, bounds in self._ranges.items()]
        if not listed:
            return []
        return [f"options of rows are set by columns: {', '.join(listed)}; `--no-row-options` takes them as data"]

    def texts(self) -> list[str]:
        """Return the notes as sentences, in the order in which they came up."""
        found = [
            f"{text} ({counted(count, 'row')}, first in line {line:,})"
            for text, (count, line) in islice(self._found.items(), _SHOWN)
        ]
        left = len(self._found) - _SHOWN
        more = [f"… and {counted(left, 'note')} more, of other values"] if left > 0 else []
        return self._options() + found + more


def _range(bounds: list[float]) -> str:
    """Return a range in words; empty for what has none."""
    if not bounds:
        return ""
    low, high = bounds
    return f" {low}" if low == high else f" {low} to {high}"
