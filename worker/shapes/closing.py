"""The shortest way to a whole value: searched over the bytes that a grammar lets follow, and written in tokens.

A way is tried on the grammar itself before it is used, so its length is a bound that is never too short. It is the
shortest but where two texts of one length that let the same bytes follow have different ways to go.
"""

import heapq
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from endmark.jobs.shapes.matching import completes
from endmark.worker.engine.text import Vocabulary

_MOST_BYTES = 4096  # of a way
_SECONDS = 2.0  # for one search
_ALIKE = 8  # texts of one length with the same bytes to follow that are gone on from
_FREE = 2  # the same where more bytes than `_CHOSEN` may follow in JSON, as in free text
_CHOSEN = 3
_FOUND = 4  # ways among which the one of fewest tokens is chosen
_FEW = 12  # bytes that may follow, up to which each is tried, and not one of each kind
_BREADTH = 2  # texts that come to a sign before those that have not are given up
_SIGNS = (b"{", b"}", b"[", b"]", b",", b":")
_WHITE = frozenset(b" \t\r\n")
_LONGEST = 32  # bytes of a token that is looked for
_WAYS = 32  # that are kept for other answers
_TEXTS = 4096  # whose tokens are kept


@dataclass(frozen=True, slots=True)
class Grammar:
    """What searches know of a grammar."""

    is_json: bool  # whether white space outside of strings leads nowhere
    kinds: dict[bytes, bytes] = field(default_factory=dict)  # by bytes that may follow: of each kind of them one
    ways: OrderedDict[bytes, "Way"] = field(default_factory=OrderedDict)  # of the last answers, the latest last

    def solid(self, mask: bytes) -> bytes:
        """Return the bytes that may follow outside of a string and are worth a try."""
        allowed = _set_bits(mask)
        return (self.is_json and bytes(byte for byte in allowed if byte not in _WHITE)) or allowed

    def note(self, way: "Way") -> None:
        """Keep a way, which may close other answers too."""
        self.ways[way.data] = way
        self.ways.move_to_end(way.data)
        if len(self.ways) > _WAYS:
            self.ways.popitem(last=False)

    def known_way(self, closes: Callable[["Way"], bool]) -> "Way | None":
        """Return the one of fewest tokens of those that are kept and close; None if none does."""
        fitting = (way for way in self.ways.values() if closes(way))
        return min(fitting, key=lambda way: len(way.token_ids), default=None)


class Way(NamedTuple):
    """A way to close."""

    data: bytes
    token_ids: tuple[int, ...]


class Standing(NamedTuple):
    """How a JSON text stands behind its last byte."""

    depth: int = 0  # brackets that are open; below 0 where it closes those of a text before it
    in_string: bool = False
    escaped: bool = False
    parts: tuple[int, ...] = (0,)  # commas and colons at each depth, from the outermost that it has been at

    def behind(self, byte: int) -> "Standing":
        """Return how it stands with one byte more."""
        if self.in_string:
            ended = byte == 0x22 and not self.escaped
            return self._replace(in_string=not ended, escaped=byte == 0x5C and not self.escaped)
        if byte == 0x22:
            return self._replace(in_string=True)
        if byte in b"{[":
            return self._replace(depth=self.depth + 1, parts=(*self.parts, 0))
        if byte in b"}]":
            return self._replace(depth=self.depth - 1, parts=self.parts[:-1] or (0,))
        if byte in b",:":
            return self._replace(parts=(*self.parts[:-1], self.parts[-1] + 1))
        return self

    def after(self, data: bytes) -> "Standing":
        """Return how it stands with more bytes, for a search that begins there: depths are told from there."""
        stands = self
        for byte in data:
            stands = stands.behind(byte)
        return stands._replace(depth=0, parts=(0,))


class Closer:
    """Finds ways to close in the tokens of one model.

    Args:
        vocabulary: of the model's tokeniser.
        ends: the end tokens, which no way may use.
    """

    def __init__(self, vocabulary: Vocabulary, ends: Iterable[int]) -> None:
        without = frozenset(ends)
        self._end = min(without)
        self._ids: dict[bytes, int] = {}
        self._known: dict[bytes, Way | None] = {}  # texts in tokens
        for token_id, data in enumerate(vocabulary.token_bytes):
            if 0 < len(data) <= _LONGEST and token_id not in without:
                self._ids.setdefault(data, token_id)

    def tokens(self, data: bytes) -> tuple[int, ...] | None:
        """Return the fewest tokens that write these bytes; None if none do."""
        best: list[tuple[int, int]] = [(0, 0)]  # by end: how many tokens, and where the last of them begins
        for end in range(1, len(data) + 1):
            begins = range(max(0, end - _LONGEST), end)
            best.append(
                min(((best[at][0] + 1, at) for at in begins if data[at:end] in self._ids), default=(1 << 30, 0))
            )
        if best[-1][0] >= 1 << 30:
            return None
        found: list[int] = []
        end = len(data)
        while end:
            begin = best[end][1]
            found.append(self._ids[data[begin:end]])
            end = begin
        return tuple(reversed(found))

    def shortest(
        self,
        matcher: Any,  # noqa: ANN401 - llguidance's
        grammar: Grammar,
        known: bytes = b"",
        stands: Standing | None = None,
    ) -> Way | None:
        """Return the way to close of fewest tokens; None if none is found in time.

        Args:
            matcher: of bytes, as it stands; it is left as it is.
            grammar: what searches in it have found; added to.
            known: a way from where it stood before, whose ends may be those of this one.
            stands: how the text stands there that it has taken; by default at the beginning.
        """
        ends = [known[at:] for at in range(len(known)) if known[at : at + 1] in (b",", b"}", b"]")]
        return self.fewest(_Search(grammar, ends).ways(matcher, stands or Standing()))

    def fewest(self, texts: Iterable[bytes]) -> Way | None:
        """Return of several texts the one of fewest tokens; None if none can be written."""
        ways = (self._written(data) for data in texts)
        return min((way for way in ways if way is not None), key=lambda way: len(way.token_ids), default=None)

    def adapted(self, matcher: Any, known: bytes, seen: bytes) -> Way | None:  # noqa: ANN401 - llguidance's
        """Return a way made from the one that was known some bytes before; None if none can be made so.

        Args:
            matcher: of tokens, as it stands.
            known: a way from where it stood before.
            seen: the bytes since then.
        """
        if known.startswith(seen):
            return self._written(known[len(seen) :])
        rests = (self._written(known[begin:]) for begin in range(len(known), -1, -1))
        return next((way for way in rests if way is not None and self.leads_to_end(matcher, way)), None)

    def leads_to_end(self, matcher: Any, way: Way) -> bool:  # noqa: ANN401 - llguidance's
        """Whether a way leads to a whole value from where a matcher of tokens stands, which is left as it is."""
        if not way.token_ids:
            return bool(matcher.is_accepting())
        asked = [*way.token_ids, self._end]
        return bool(matcher.validate_tokens(asked) == len(asked))

    def _written(self, data: bytes) -> Way | None:
        """Return a way in tokens; None if none write it."""
        if data not in self._known:
            if len(self._known) >= _TEXTS:
                self._known.clear()
            token_ids = self.tokens(data)
            self._known[data] = None if token_ids is None else Way(data, token_ids)
        return self._known[data]


class _Search:
    """Ways to close from where a matcher stands, shorter ones first.

    A JSON value is searched from part to part: once some texts have come to the next comma or colon at some depth,
    those that have not are given up.

    Args:
        grammar: what is known of it.
        hints: ends that may close it, from an earlier search.
    """

    def __init__(self, grammar: Grammar, hints: Sequence[bytes]) -> None:
        self._grammar, self._hints = grammar, hints
        self._waiting: list[tuple[int, int, bytes, Standing, Any]] = []
        self._alike: Counter[tuple[int, bytes]] = Counter()
        self._come: Counter[tuple[int, ...]] = Counter()  # texts that have come to a part
        self._furthest: dict[int, tuple[int, ...]] = {}  # by depth: the parts to which enough texts have come
        self._made = 0

    def ways(self, matcher: Any, stands: Standing) -> Iterator[bytes]:  # noqa: ANN401 - llguidance's
        """Yield ways to close."""
        began = time.monotonic()
        found = 0
        self._push(b"", stands, matcher.deep_copy())
        while self._waiting and found < _FOUND and time.monotonic() - began < _SECONDS:
            _, _, way, stands, at = heapq.heappop(self._waiting)
            if at.is_accepting():
                found += 1
                yield way
                continue
            if len(way) >= _MOST_BYTES or self._is_behind(stands, way[-1:]):
                continue
            if way[-1:] in _SIGNS and not stands.in_string:
                ends = [way + hint for hint in self._hints if completes(at, hint)]
                if ends:
                    found += _FOUND
                    yield min(ends, key=len)
                    continue
            self._go_on(way, stands, at)

    def _is_behind(self, stands: Standing, last: bytes) -> bool:
        """Whether enough other texts have come further, at a depth at which this one still is."""
        parts, depth = stands.parts, stands.depth
        for level, furthest in self._furthest.items():
            if level <= depth and parts[: len(parts) - (depth - level)] < furthest:
                return True
        if last in _SIGNS and not stands.in_string:
            self._come[depth, *parts] += 1
            if self._come[depth, *parts] >= _BREADTH:
                self._furthest[depth] = max(parts, self._furthest.get(depth, parts))
        return False

    def _go_on(self, way: bytes, stands: Standing, at: Any) -> None:  # noqa: ANN401 - llguidance's
        """Put the texts that are a byte longer among those that wait."""
        mask = at.compute_bitmask()
        kinds = self._grammar.kinds.get(mask)
        if kinds is None:
            solid = _set_bits(mask) if stands.in_string else self._grammar.solid(mask)
            kinds = self._grammar.kinds[mask] = solid if len(solid) <= _FEW else _one_of_each_kind(at, solid)
        for byte in kinds:
            copy = at if len(kinds) == 1 else at.deep_copy()
            if copy.try_consume_tokens([byte]) == 1:
                self._push(way + bytes((byte,)), stands.behind(byte), copy)

    def _push(self, way: bytes, stands: Standing, at: Any) -> None:  # noqa: ANN401 - llguidance's
        """Let a text wait, unless enough of its length with the same bytes to follow have."""
        mask = at.compute_bitmask()
        self._alike[len(way), mask] += 1
        free = self._grammar.is_json and int.from_bytes(mask, "little").bit_count() > _CHOSEN
        if self._alike[len(way), mask] <= (_FREE if free else _ALIKE):
            self._made += 1
            least = len(way) + max(0, stands.depth) + stands.in_string
            heapq.heappush(self._waiting, (least, self._made, way, stands, at))


def _one_of_each_kind(matcher: Any, allowed: bytes) -> bytes:  # noqa: ANN401 - llguidance's
    """Return of the bytes that may follow one of each kind: those are alike behind which the same may follow.

    The kind that changes nothing, such as one letter more, comes last: it leads on more slowly than the others.
    """
    same = matcher.compute_bitmask() + bytes((matcher.is_accepting(),))
    found: dict[bytes, int] = {}
    for byte in sorted(allowed, key=lambda byte: (byte not in b"a0", byte)):  # rather letters than blanks
        copy = matcher.deep_copy()
        if copy.try_consume_tokens([byte]) == 1:
            found.setdefault(copy.compute_bitmask() + bytes((copy.is_accepting(),)), byte)
    return bytes(found[mask] for mask in sorted(found, key=same.__eq__))


def _set_bits(mask: bytes) -> bytes:
    """Return the bytes whose bits are set; those behind the 256 are of end tokens."""
    return bytes(byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1)
