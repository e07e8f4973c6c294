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
_FEW = 64  # entries of dropped rows that the heap may always hold


class WaitingRows:
    """Rows in their order of admission.

    Args:
        batch: rows that can run at once.
    """

    def __init__(self, batch: int) -> None:
        self._heap: list[tuple[float, int, RowState]] = []
        self._rows: dict[RowState, None] = {}  # those that wait; the heap may hold dropped ones too
        self.tokens = 0  # of their prompts
        self._order = itertools.count()
        self._admitted = 0
        self._per_row = _TOKENS_PER_BATCH / batch

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RowState]:
        """Return the rows in no order."""
        return iter(self._rows)

    def add(self, row: RowState) -> None:
        """Take in a row that has just come."""
        self._push(self._admitted * self._per_row - row.budget, next(self._order), row)

    def put_back(self, row: RowState) -> None:
        """Take in a row that was preempted: it is the first."""
        self._push(-math.inf, -next(self._order), row)

    @property
    def first(self) -> RowState:
        """The row that is to be admitted next."""
        return self._heap[0][2]

    def admit(self) -> None:
        """Take out the first row."""
        self._take_out(self.first)
        self._admitted += 1
        self._pop_dropped()

    def drop(self, row: RowState) -> None:
        """Forget a row. Its entry leaves the heap when it comes to the front, or with many others at once."""
        self._take_out(row)
        if len(self._heap) > 2 * len(self._rows) + _FEW:
            self._heap = [entry for entry in self._heap if entry[2] in self._rows]
            heapq.heapify(self._heap)
        self._pop_dropped()

    def _push(self, place: float, order: int, row: RowState) -> None:
        """Take in a row; the lowest place is the first, of equal ones the lowest order."""
        heapq.heappush(self._heap, (place, order, row))
        self._rows[row] = None
        self.tokens += row.prompt_length

    def _take_out(self, row: RowState) -> None:
        """Count a row no more."""
        del self._rows[row]
        self.tokens -= row.prompt_length

    def _pop_dropped(self) -> None:
        """Take entries that no row waits for from the front."""
        while self._heap and self._heap[0][2] not in self._rows:
            heapq.heappop(self._heap)
