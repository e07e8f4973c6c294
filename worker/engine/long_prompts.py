"""Prompts far longer than those of other rows: computed in pieces, now and then, so that nobody waits for them.

A full step of prompts is for rows like those that run. One prompt of 32,000 tokens among rows of 300 would stop
them for a second and more; so it is given a share of the time that their steps take, and all of it once they have
ended. Where many rows have such prompts none is far longer than the others.
"""

from collections.abc import Collection

from endmark.worker.engine.contract import Runner
from endmark.worker.engine.row import RowState

_FAR_LONGER = 8  # times as many tokens as other rows have on average
_LEAST = 4  # a prompt is not long that is no more than this part of a full step
_SHARE = 1 / 12  # of the time of the other rows' steps, by tokens
_PIECE = 2  # a piece of a long prompt is this part of what runs beside a full batch
# tokens before one that make it cost twice as much: its attention is a third of its products' work by then, and a
# card does it at a third of the rate
_FAR = 8192


class LongPrompts:
    """Tells which prompts are long, and when the next piece of one is due."""

    def __init__(self, runner: Runner) -> None:
        """Begin without credit; pieces are whole pages of the runner's."""
        page = runner.page_size
        self.piece = max(page, runner.piece_tokens // _PIECE // page * page)
        self._least = runner.prefill_tokens // _LEAST
        self._weight_tokens = runner.weight_tokens
        self._credit = 0.0  # tokens that may be computed now

    def is_long(self, tokens: int, others: Collection[RowState], waiting: int, waiting_tokens: int) -> bool:
        """Whether a prompt is far longer than those of other rows.

        Args:
            tokens: of it that are left to compute.
            others: rows that hold a slot.
            waiting: rows that hold none; `waiting_tokens` all theirs.
        """
        count = len(others) + waiting
        if tokens <= self._least or not count:
            return False
        return tokens * count > _FAR_LONGER * (waiting_tokens + sum(row.length for row in others))

    def due(self, left: int, before: int, others: int) -> int:
        """Return how many tokens of a long prompt are to be computed in a step, 0 in most.

        Args:
            left: tokens of it that are not computed yet, and `before` of those that are.
            others: tokens of other rows in the step.
        """
        self._credit += _SHARE * (self._weight_tokens + others)
        size = min(left, self.piece)
        cost = size * (1 + before / _FAR)
        if self._credit < cost:
            return 0
        self._credit = 0.0
        return size
