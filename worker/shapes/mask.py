"""The mask of one answer: which tokens may follow, worked out on threads of its own while others are drawn."""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.text import Vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A shape compiled for a model's tokens."""

    matcher: Any  # llguidance's, at the beginning; copied for each answer
    end_bits: NDArray[np.int32]  # (ceil(V / 32),): the end tokens
    vocabulary: Vocabulary


class ShapeMask:
    """A `TokenMask` of one answer.

    Args:
        compiled: the shape.
        pool: whose threads make the masks.
        token_ids: with which the answer begins.
        budget: tokens that may follow, the end token included.
    """

    def __init__(self, compiled: Compiled, pool: Executor, token_ids: Sequence[int], budget: int) -> None:
        self._compiled = compiled
        self._pool = pool
        self._budget = budget
        self._matcher: Any = None
        self._words = np.zeros_like(compiled.end_bits)
        self.refusal = ""
        self._pending: Future[None] = pool.submit(self._begin, tuple(token_ids))

    def see(self, token_id: int) -> None:
        """Take the answer's next token; its mask is begun elsewhere."""
        self._pending.result()
        self._pending = self._pool.submit(self._follow, token_id)

    def words(self) -> NDArray[np.int32]:
        """Return a bit for each token, (ceil(V / 32),): 1 where it may follow."""
        self._pending.result()
        return self._words

    def _begin(self, token_ids: Sequence[int]) -> None:
        """Take the tokens with which the answer begins."""
        try:
            self._matcher = self._compiled.matcher.deep_copy()
            self._take(token_ids)
        except Exception as error:
            self._fail(error)

    def _follow(self, token_id: int) -> None:
        """Take one token more."""
        try:
            self._budget -= 1
            self._take((token_id,))
        except Exception as error:
            self._fail(error)

    def _take(self, token_ids: Sequence[int]) -> None:
        """Let the matcher go on, and make the mask of what may follow."""
        self._words = np.zeros_like(self._compiled.end_bits)
        if self.refusal:
            return
        if self._matcher.try_consume_tokens(list(token_ids)) < len(token_ids):
            self.refusal = (
                "the answer has left its shape: another option forbids every token that the shape allows"
            )
            return
        if not self._matcher.is_stopped():
            made = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
            self._words[: len(made)] = made[: len(self._words)]
        self._words &= ~self._compiled.end_bits
        if self._matcher.is_accepting():
            self._words |= self._compiled.end_bits
        if self._matcher.is_error() or not self._words.any():
            self.refusal = (
                f"the shape of the answer lets no token follow: {self._matcher.get_error() or 'none fits'}"
            )
            self._words[:] = 0

    def _fail(self, error: Exception) -> None:
        """Let no token follow: the row fails alone, with the reason."""
        log.exception("a mask cannot be made")
        self._words = np.zeros_like(self._compiled.end_bits)
        self.refusal = f"the mask of the answer's shape cannot be made: {type(error).__name__}: {error}"
