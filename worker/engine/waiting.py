"""The rows that have no slot yet, in the order in which they get one.

The largest budget goes first, so that a batch does not run out with a few long rows. Rows that come later count as
smaller by what has been admitted before them, so that no row is overtaken for ever: a batch's worth of rows weighs
as much as 128 tokens of budget. Rows of equal budgets keep their order.
"""

import heapq
import itertools
import math
from collections.abc import Iterator

from endmark.worker.engine.row import RowState

_TOKENS_PER_BATCH = 128  # of budget, that weigh as much as a batch of rows which was admitted meanwhile


class WaitingRows:
    """Rows in their order of admission.

    Args:
        batch: rows that can run at once.
    """

    def __init__(self, batch: int) -> None:
        self._heap: list[tuple[float, int, RowState]] = []
        self._order = itertools.count()
        self._admitted = 0
        self._per_row = _TOKENS_PER_BATCH / batch

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[RowState]:
        """Return the rows in no order."""
        return (row for _, _, row in self._heap)

    def add(self, row: RowState) -> None:
        """Take in a row that has just come."""
        heapq.heappush(self._heap, (self._admitted * self._per_row - row.budget, next(self._order), row))

    def put_back(self, row: RowState) -> None:
        """Take in a row that was preempted: it is the first."""
        heapq.heappush(self._heap, (-math.inf, -next(self._order), row))

    @property
    def first(self) -> RowState:
        """The row that is to be admitted next."""
        return self._heap[0][2]

    def admit(self) -> None:
        """Take out the first row."""
        heapq.heappop(self._heap)
        self._admitted += 1

    def drop(self, row: RowState) -> None:
        """Forget a row."""
        self._heap = [item for item in self._heap if item[2] is not row]
        heapq.heapify(self._heap)
