"""The mask of one answer: which tokens may follow, worked out on threads of its own while others are drawn.

It also closes the answer in time: a way to a whole value is known from the last token that was checked, and when
no more than that way is left of the budget, only that way is open. Where a token was drawn behind which no way is
short enough, the tokens since then are given back and the way is taken from there.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes.closing import Closer, Grammar, Standing, Way

log = logging.getLogger(__name__)
_FAR = 32  # tokens between two checks while far more is left than the way takes
_NEAR = 3  # times the way, and `_FAR` more: what is left when each token is checked


@dataclass(frozen=True, slots=True)
class Compiled:
    """A shape compiled for a model's tokens."""

    matcher: Any  # llguidance's over tokens, at the beginning; copied for each answer
    byte_matcher: Any  # the same over bytes
    end_bits: NDArray[np.int32]  # (ceil(V / 32),): the end tokens
    vocabulary: Vocabulary
    closer: Closer
    way: Way | None  # the shortest from the beginning; None if none was found
    grammar: Grammar  # what searches have found


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
        self._matcher: Any = compiled.matcher.deep_copy()
        self._bytes: Any = compiled.byte_matcher.deep_copy()  # as of the last check
        self._stands = Standing()  # how the text stands, as of the last check
        self._way = compiled.way
        self._since: list[int] = []  # tokens since the last check
        self._too_long: Way | None = None  # that the last check found
        self._ahead: tuple[int, ...] = ()  # of the way that is being taken
        self._words = np.zeros_like(compiled.end_bits)
        self.refusal = ""
        self.closes = False
        self.surplus = 0
        self._pending: Future[None] = pool.submit(self._guarded, self._begin, tuple(token_ids))

    def see(self, token_id: int) -> None:
        """Take the answer's next token; its mask is begun elsewhere."""
        self._pending.result()
        self._pending = self._pool.submit(self._guarded, self._follow, token_id)

    def words(self) -> NDArray[np.int32]:
        """Return a bit for each token, (ceil(V / 32),): 1 where it may follow."""
        self._pending.result()
        return self._words

    def give_back(self) -> None:
        """Go back by the surplus: to the last token behind which the value could be closed in time."""
        self._pending.result()
        self._matcher.rollback(self.surplus)
        self._budget += self.surplus
        self.surplus = 0
        self._take_way()

    def _guarded(self, work: Any, *given: Any) -> None:  # noqa: ANN401
        """Do some work; where it fails, no token may follow, and the row fails alone with the reason."""
        try:
            work(*given)
        except Exception as error:
            log.exception("a mask cannot be made")
            self._refuse(f"the mask of the answer's shape cannot be made: {type(error).__name__}: {error}")

    def _begin(self, token_ids: Sequence[int]) -> None:
        """Take the tokens with which the answer begins."""
        if self._consume(token_ids):
            self._since = list(token_ids)
            if token_ids and not self._check():
                self._way = self._too_long
            need = len(self._way.token_ids) + 1 if self._way is not None else 0
            if self._budget < need:
                self._refuse(
                    f"the shortest whole value of the answer's shape takes {need} tokens with its end token, and "
                    f"{self._budget} are left for it: raise `max_new_tokens`"
                )
            elif self._budget == need:
                self._take_way()
            else:
                self._draw_freely()

    def _follow(self, token_id: int) -> None:
        """Take one token more."""
        self._budget -= 1
        if self.refusal or not self._consume((token_id,)):
            return
        if self.closes:
            self._ahead = self._ahead[1:]
            self._show(self._ahead[:1])
            return
        self._since.append(token_id)
        way = self._way
        if way is not None:
            near = self._budget <= _NEAR * len(way.token_ids) + _FAR
            if (near or len(self._since) >= _FAR) and not self._check():
                self.surplus = len(self._since)
                return
            if self._way is not None and self._budget == len(self._way.token_ids) + 1 and not self._since:
                self._take_way()
                return
        self._draw_freely()

    def _check(self) -> bool:
        """Look for a way from here; return whether there is one that is short enough. If so, it is the way now."""
        seen = b"".join(map(self._compiled.vocabulary.bytes_of, self._since))
        here = self._bytes.deep_copy()
        if here.try_consume_tokens(list(seen)) < len(seen):
            return False
        stands = self._stands.after(seen)
        closer, grammar = self._compiled.closer, self._compiled.grammar
        known = self._way.data if self._way is not None else b""
        way = closer.adapted(here, known, seen)
        if way is None or len(way.token_ids) >= self._budget:
            found = closer.shortest(here, grammar, known, stands)
            way = found if way is None or (found and len(found.token_ids) < len(way.token_ids)) else way
        if way is None or len(way.token_ids) >= self._budget:
            self._too_long = way
            return False
        self._way, self._bytes, self._stands, self._since = way, here, stands, []
        return True

    def _take_way(self) -> None:
        """Let only the way follow from now on, then an end token."""
        assert self._way is not None
        self.closes = True
        self._ahead = self._way.token_ids
        self._since = []
        self._show(self._ahead[:1])

    def _consume(self, token_ids: Sequence[int]) -> bool:
        """Let the matcher go on; return whether it takes these tokens."""
        taken = self._matcher.try_consume_tokens(list(token_ids)) == len(token_ids)
        if not taken:
            self._refuse("the answer has left its shape: another option forbids every token that the shape allows")
        return bool(taken)

    def _draw_freely(self) -> None:
        """Let all follow that the shape allows."""
        compiled, matcher = self._compiled, self._matcher
        self._words = np.zeros_like(compiled.end_bits)
        if not matcher.is_stopped():
            made = np.frombuffer(matcher.compute_bitmask(), np.int32)
            self._words[: len(made)] = made[: len(self._words)]
        self._words &= ~compiled.end_bits
        if matcher.is_accepting():
            self._words |= compiled.end_bits
        if matcher.is_error() or not self._words.any():
            self._refuse(f"the shape of the answer lets no token follow: {matcher.get_error() or 'none fits'}")

    def _show(self, token_ids: Sequence[int]) -> None:
        """Let one of these tokens follow, or an end token if there are none."""
        bits = np.zeros(len(self._compiled.end_bits) * 32, np.uint8)
        bits[list(token_ids)] = 1
        words = np.packbits(bits, bitorder="little").view(np.int32)
        self._words = words if token_ids else self._compiled.end_bits.copy()

    def _refuse(self, reason: str) -> None:
        """Let no token follow."""
        self.refusal = reason
        self._words = np.zeros_like(self._compiled.end_bits)
