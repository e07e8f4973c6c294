"""The labels that answers were chosen among: how many rows have each, and which rows are the least certain."""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from endmark.cli.pages.intervals import Interval, wilson

_UNSURE = 20  # rows that are told


@dataclass(frozen=True, slots=True)
class Unsure:
    """A row whose label has a low probability."""

    row: int
    prompt: str
    probs: Mapping[str, float]  # of each label

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """The labels, the most probable first."""
        return sorted(self.probs.items(), key=lambda item: -item[1])


@dataclass(frozen=True, slots=True)
class LabelCount:
    """One label over all rows."""

    label: str
    rows: int  # that have it
    share: Interval
    expected: float | None  # rows that would have it by the probabilities; None where no row was scored
    mean_prob: float | None  # of the rows that have it and were scored


@dataclass(slots=True)
class Labels:
    """The labels of an arm's answers, counted as they come."""

    _rows: Counter[str] = field(default_factory=Counter)
    _scored: Counter[str] = field(default_factory=Counter)  # of these, those with probabilities
    _own: dict[str, float] = field(default_factory=dict)  # sums of the chosen labels' probabilities
    _expected: dict[str, float] = field(default_factory=dict)  # sums of each label's, over all scored rows
    _heap: list[tuple[float, int, Unsure]] = field(default_factory=list)  # the most certain of them first

    def count(self, row: int, label: str, probs: Mapping[str, float] | None, prompt: Callable[[], str]) -> None:
        """Take a row in.

        Args:
            label: that it has.
            probs: of each label; None where it was drawn.
            prompt: returns what the row asks.
        """
        self._rows[label] += 1
        if probs is None:
            return
        self._scored[label] += 1
        self._own[label] = self._own.get(label, 0.0) + probs[label]
        for name, prob in probs.items():
            self._expected[name] = self._expected.get(name, 0.0) + prob
        if len(self._heap) < _UNSURE or probs[label] < -self._heap[0][0]:
            heapq.heappush(self._heap, (-probs[label], -row, Unsure(row, prompt(), probs)))
            if len(self._heap) > _UNSURE:
                heapq.heappop(self._heap)

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def counts(self) -> list[LabelCount]:
        """Every label that a row has or may have had, the most frequent first."""
        total = self._rows.total()
        names = sorted(self._rows.keys() | self._expected.keys(), key=lambda name: (-self._rows[name], name))
        return [
            LabelCount(
                name,
                self._rows[name],
                wilson(self._rows[name], total),
                self._expected.get(name, 0.0) if self._expected else None,
                self._own[name] / self._scored[name] if self._scored[name] else None,
            )
            for name in names
        ]

    @property
    def unsure(self) -> list[Unsure]:
        """The rows whose labels are least probable, the least probable first."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]
