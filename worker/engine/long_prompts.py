"""Prompts far longer than those of other rows: computed in pieces, now and then, so that nobody waits for them.

A full step of prompts is for rows like those that run. One prompt of 32,000 tokens among rows of 300 would stop
them for a second and more; so it is given a share of the time that their steps take, and all of it once they have
ended. Where many rows have such prompts none is far longer than the others; and beside a few rows it gets its turn
as each of them does, for it would wait for longer than all of them together.
"""

from endmark.worker.engine.contract import Runner
from endmark.worker.engine.rates import FAR

_FAR_LONGER = 8  # times as many tokens as other rows have on average
_LEAST = 4  # a prompt is not long that is no more than this part of a full step
_ROWS = 12  # among so many rows and more it is given a twelfth of the time of their steps, else as much as each
_PIECE = 2  # a piece of a long prompt is this part of what runs beside a full batch


class LongPrompts:
    """Tells which prompts are long, and when the next piece of one is due."""

    def __init__(self, runner: Runner) -> None:
        """Begin without credit; pieces are whole pages of the runner's."""
        page = runner.page_size
        self.piece = max(page, runner.piece_tokens // _PIECE // page * page)
        self.least = runner.prefill_tokens // _LEAST  # no shorter prompt is long
        self._weight_tokens = runner.weight_tokens
        self._credit = 0.0  # tokens that may be computed now

    def is_long(self, left: int, others: int, tokens: int) -> bool:
        """Whether a prompt of more than `least` tokens is far longer than other rows.

        Args:
            left: tokens of it that are not computed yet.
            others: rows, running and waiting; `tokens` all theirs.
        """
        return left * others > _FAR_LONGER * tokens

    def due(self, left: int, before: int, rows: int, tokens: int) -> int:
        """Return how many tokens of a long prompt are to be computed in a step, 0 in most.

        Args:
            left: tokens of it that are not computed yet, and `before` of those that are.
            rows: that run; `tokens` all of the step that are not of the long prompt.
        """
        self._credit += (self._weight_tokens + tokens) / min(_ROWS, max(1, rows))
        size = min(left, self.piece)
        cost = size * (1 + before / FAR)
        if self._credit < cost:
            return 0
        self._credit = 0.0
        return size
