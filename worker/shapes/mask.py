"""The mask of one answer: which tokens may follow, worked out beside the engine's thread with those of others.

It also closes the answer in time: a way to a whole value is known from the last token that was checked, and when
no more than that way is left of the budget, only that way is open. Where a token was drawn behind which no way is
short enough, the tokens since then are given back and the way is taken from there. So a check may come late: while
something is left beyond the way, it is made behind the masks of a step, which a device waits for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes.closing import Closer, Grammar, Standing, Way
from endmark.worker.shapes.making import Batch, MaskMaker
from endmark.worker.shapes.room import Lease
from endmark.worker.shapes.white_space import START, WhiteSpace

_FAR = 32  # the most tokens between two checks
_SHARE = 4  # a check is due when this part of the budget beyond the way is used up
_ROOM = 4  # tokens beyond the way with which a check may come late, and by how many
_APART = 8  # answers that begin together are checked at so many times
_PARTS = frozenset(b'{}[],:"\\')  # bytes at which a part of a JSON value begins or ends
_LEFT = "the answer has left its shape: another option forbids every token that the shape allows"


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
    white_space: WhiteSpace | None  # what ends it; None where nothing has to


class ShapeMask:
    """A `TokenMask` of one answer.

    Args:
        compiled: the shape.
        maker: makes the masks of all answers, in batches.
        token_ids: with which the answer begins.
        budget: tokens that may follow, the end token included.
    """

    def __init__(self, compiled: Compiled, maker: MaskMaker, token_ids: Sequence[int], budget: int) -> None:
        self._compiled = compiled
        self._maker = maker
        self._budget = budget
        self.matcher: Any = compiled.matcher.deep_copy()
        self._bytes: Any = compiled.byte_matcher.deep_copy()  # as of the last search
        self._stands = Standing()  # how the text stands there
        self._unread = b""  # checked since then
        self._way = compiled.way
        self._since: list[int] = []  # tokens since the last check
        self._until = _FAR  # how many there may be before the next
        self._early = next(maker.begun) % _APART  # by how many eighths the first comes before its time
        self.due = False  # whether a check is to be made once the masks of a step are
        self._missed = False  # whether that found no way that is short enough
        self._too_long: Way | None = None  # that the last check found
        self._ahead: tuple[int, ...] = ()  # of the way that is being taken
        self._words = self._room = np.zeros_like(compiled.end_bits)
        self._lease: Lease | None = None  # under which the words stand where they were made
        self._place = START  # of white space, behind the last token
        self.refusal = ""
        self.closes = False
        self.surplus = 0
        self._batch: Batch = maker.begin(self, tuple(token_ids))

    def see(self, token_id: int) -> None:
        """Take the answer's next token; its mask is made elsewhere, from `start` on."""
        self._batch.wait()
        self._batch = self._maker.follow(self, token_id)

    def start(self) -> None:
        """Begin with the masks of all answers that have seen a token."""
        self._maker.start()

    def words(self) -> NDArray[np.int32]:
        """Return a bit for each token, (ceil(V / 32),): 1 where it may follow."""
        self._batch.wait()
        return self._words

    @property
    def steady(self) -> bool:
        """No: it follows every token."""
        return False

    def give_back(self) -> None:
        """Go back by the surplus: to the last token behind which the value could be closed in time."""
        self._batch.wait()
        self.matcher.rollback(self.surplus)
        self._budget += self.surplus
        self.surplus, self._missed = 0, False
        self._take_way()

    def begin(self, token_ids: Sequence[int]) -> bool:
        """Take the tokens with which the answer begins; return whether what may follow is to be worked out."""
        if self.matcher.try_consume_tokens(list(token_ids)) < len(token_ids):
            self.refuse(_LEFT)
            return False
        self._since = list(token_ids)
        for token_id in token_ids:
            self._pass(token_id)
        if token_ids and not self._check():
            self._way = self._too_long
        need = len(self._way.token_ids) + 1 if self._way is not None else 0
        if self._budget < need:
            self.refuse(
                f"the shortest whole value of the answer's shape takes {need} tokens with its end token, and "
                f"{self._budget} are left for it: raise `max_new_tokens`"
            )
        elif self._budget == need:
            self._take_way()
        else:
            self._wait_for_check()
            return True
        return False

    def follow(self, token_id: int, taken: bool) -> bool:
        """Go on with a token that the matcher has been given; return whether what may follow is to be worked out.

        Args:
            token_id: of the answer.
            taken: whether the matcher took it.
        """
        self._budget -= 1
        if not taken:
            self.refuse(_LEFT)
            return False
        self._since.append(token_id)
        self._pass(token_id)
        if self._missed:
            self.surplus = len(self._since)
            return False
        if self._way is None or len(self._since) < self._until:
            return True
        beyond = self._budget - len(self._way.token_ids) - 1
        self.due = beyond >= _ROOM and len(self._since) < self._until + _ROOM
        return self.due or self._checked()

    def close(self, token_id: int) -> None:
        """Go on with a token of the way, behind which only the rest of it may follow; the matcher is not asked."""
        self._budget -= 1
        if self._ahead[:1] != (token_id,):
            self.refuse(_LEFT)
            return
        self._ahead = self._ahead[1:]
        self._show(self._ahead[:1])

    def look(self) -> None:
        """Make the check that is due, whose result counts from the next token on."""
        self.due = False
        if self._check():
            self._wait_for_check()
        else:
            self._missed = True

    def _checked(self) -> bool:
        """Make a check that cannot come late; return whether what may follow is to be worked out."""
        if not self._check():
            self.surplus = len(self._since)
            return False
        if self._way is not None and self._budget == len(self._way.token_ids) + 1:
            self._take_way()
            return False
        self._wait_for_check()
        return True

    def show(self, words: NDArray[np.int32], lease: Lease | None, *, some: bool) -> None:
        """Let those tokens follow whose bits are set, as of `Maskable`.

        Words that are copied stand where those of the last token stood, which has been drawn: fresh memory for
        each mask would take ten times as long as the copy.
        """
        white = self._compiled.white_space
        self._words, self._lease = words, lease
        if lease is None or white is not None:
            np.copyto(self._room, words if white is None else white.within(words, self._place))
            self._words, self._lease = self._room, None
        if not some or self.matcher.is_error():
            self.refuse(f"the shape of the answer lets no token follow: {self.matcher.get_error() or 'none fits'}")

    @property
    def end_bits(self) -> NDArray[np.int32]:
        """The bits of all end tokens, (ceil(V / 32),)."""
        return self._compiled.end_bits

    def _pass(self, token_id: int) -> None:
        """Note what white space stands behind a token."""
        if self._compiled.white_space is not None:
            self._place = self._compiled.white_space.behind(self._place, token_id)

    def _wait_for_check(self) -> None:
        """Settle when the next check is due: one that fails costs the tokens since the last."""
        if self._way is not None:
            beyond = self._budget - len(self._way.token_ids) - 1
            until = min(_FAR, beyond // _SHARE)
            self._until = max(1, until - until * self._early // _APART)
            self._early = 0

    def _check(self) -> bool:
        """Look for a way from here; return whether there is one that is short enough. If so, it is the way now."""
        seen = b"".join(map(self._compiled.vocabulary.bytes_of, self._since))
        self._unread += seen
        way = self._known_way(seen)
        if way is None or len(way.token_ids) >= self._budget:
            found = self._shortest()
            way = found if way is None or (found and len(found.token_ids) < len(way.token_ids)) else way
        if way is None or len(way.token_ids) >= self._budget:
            self._too_long = way
            return False
        self._way, self._since = way, []
        return True

    def _known_way(self, seen: bytes) -> Way | None:
        """Return a way from here that takes no search; None if there is none.

        The way known so far is good enough while far more is left, and where no part of a JSON value has begun or
        ended since.

        Args:
            seen: the bytes since the last check.
        """
        way, closer = self._way, self._compiled.closer
        if way is None:
            return None
        far = self._budget > len(way.token_ids) + _FAR
        within = self._compiled.grammar.is_json and not any(byte in _PARTS for byte in seen)
        if (far or within) and closer.leads_to_end(self.matcher, way):
            return way
        return closer.adapted(self.matcher, way.data, seen) or self._compiled.grammar.known_way(
            lambda other: len(other.token_ids) < self._budget and closer.leads_to_end(self.matcher, other)
        )

    def _shortest(self) -> Way | None:
        """Return the shortest way from here."""
        unread, self._unread = self._unread, b""
        if self._bytes.try_consume_tokens(list(unread)) < len(unread):
            return None
        self._stands = self._stands.after(unread)
        known = self._way.data if self._way is not None else b""
        way = self._compiled.closer.shortest(self._bytes, self._compiled.grammar, known, self._stands)
        if way is not None:
            self._compiled.grammar.note(way)
        return way

    def _take_way(self) -> None:
        """Let only the way follow from now on, then an end token."""
        assert self._way is not None
        self.closes = True
        self._ahead = self._way.token_ids
        self._since = []
        self._show(self._ahead[:1])

    def _show(self, token_ids: Sequence[int]) -> None:
        """Let one of these tokens follow, or an end token if there are none; no memory is made for it."""
        self._words, self._lease = self._room if token_ids else self._compiled.end_bits, None
        if token_ids:
            self._room.fill(0)
        for token_id in token_ids:
            self._room.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)

    def refuse(self, reason: str) -> None:
        """Let no token follow."""
        self.refusal = reason
        self._words, self._lease = np.zeros_like(self._compiled.end_bits), None
