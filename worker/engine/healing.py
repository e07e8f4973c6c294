"""Token healing: a prompt that ends inside a token is cut before it, and the answer begins with what was cut off.

A text that stops in the middle of what the tokeniser writes as one token, as `https:` does before `//`, ends with
tokens that a model has hardly seen before what is to come. So the last tokens go, as far as one token of the
vocabulary begins with all of them, and only tokens that write the same bytes may take their place; what stands
behind those bytes is the answer.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.masks import TokenMask
from endmark.worker.engine.text import Vocabulary

_MOST = 4  # tokens that are cut off


class Healed(NamedTuple):
    """A prompt without its last tokens."""

    token_ids: tuple[int, ...]
    data: bytes  # what was cut off
    text: str  # the same as text, as an answer begins with it


class Healer:
    """Cuts prompts of one model.

    Args:
        vocabulary: of the model's tokeniser.
        eos_ids: all end tokens, which have no part in it.
    """

    def __init__(self, vocabulary: Vocabulary, eos_ids: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._size = len(vocabulary.token_bytes)
        known = ((data, token_id) for token_id, data in enumerate(vocabulary.token_bytes) if data)
        self._sorted = sorted(item for item in known if item[1] not in eos_ids)

    def cut(self, token_ids: Sequence[int]) -> Healed | None:
        """Return a prompt as it is to be computed; None where no token could go on in its last ones.

        One token stays in any case, as do special ones and what stands before them.
        """
        best = None
        data = b""
        for kept in range(len(token_ids) - 1, max(0, len(token_ids) - 1 - _MOST), -1):
            own = self._vocabulary.bytes_of(token_ids[kept])
            if not own:
                break
            data = own + data
            if self._goes_on(data):
                best = kept, data
        if best is None:
            return None
        kept, data = best
        text = self._vocabulary.text_of(token_ids[kept:])
        if "\N{REPLACEMENT CHARACTER}" in text:
            return None  # it begins inside a character, which no token of text goes on from
        return Healed(tuple(token_ids[:kept]), data, text)

    def maker(self, data: bytes) -> Callable[[Sequence[int], int], TokenMask]:
        """Return what makes the mask of an answer that begins with bytes, and is free behind them."""
        return partial(HealingMask, self, self._vocabulary, data)

    def tokens(self, data: bytes) -> NDArray[np.int32]:
        """Return a bit for each token, (ceil(V / 32),): those that write the bytes, or the first of them."""
        bits = np.zeros(-(-self._size // 32) * 32, np.uint8)
        bits[[token_id for _, token_id in self._beginning(data)]] = 1
        for size in range(1, len(data)):
            bits[[token_id for _, token_id in self._same(data[:size])]] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    def everything(self) -> NDArray[np.int32]:
        """Return ones for all tokens, (ceil(V / 32),)."""
        return np.full(-(-self._size // 32), -1, np.int32)

    def _goes_on(self, data: bytes) -> bool:
        """Whether a token begins with these bytes and holds more."""
        return any(len(found) > len(data) for found, _ in self._beginning(data))

    def _beginning(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield the tokens that begin with these bytes, shorter ones first where one begins with the other."""
        for at in range(bisect_left(self._sorted, (data, -1)), len(self._sorted)):
            if not self._sorted[at][0].startswith(data):
                return
            yield self._sorted[at]

    def _same(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield the tokens of exactly these bytes."""
        for found, token_id in self._beginning(data):
            if found != data:
                return
            yield found, token_id


class HealingMask:
    """A `TokenMask` under which an answer begins with given bytes.

    Args:
        healer: of the model.
        vocabulary: of its tokeniser.
        data: the bytes.
        token_ids: with which the answer begins.
        _budget: tokens that may follow; the bytes are written whatever it is.
    """

    refusal, surplus, closes = "", 0, False

    def __init__(
        self, healer: Healer, vocabulary: Vocabulary, data: bytes, token_ids: Sequence[int], _budget: int
    ) -> None:
        self._healer, self._vocabulary, self._rest = healer, vocabulary, data
        for token_id in token_ids:
            self._take(token_id)
        self._words = self._made()

    @property
    def steady(self) -> bool:
        """Whether the bytes are written, and everything may follow from now on."""
        return not self._rest

    def see(self, token_id: int) -> None:
        """Take the answer's next token."""
        self._take(token_id)
        self._words = self._made()

    def start(self) -> None:
        """Begin with nothing."""

    def give_back(self) -> None:
        """Go back by no token."""

    def words(self) -> NDArray[np.int32]:
        """Return a bit for each token, (ceil(V / 32),)."""
        return self._words

    def _take(self, token_id: int) -> None:
        """Strike out what a token has written."""
        self._rest = self._rest[len(self._vocabulary.bytes_of(token_id)) :]

    def _made(self) -> NDArray[np.int32]:
        """Return the mask of the next token."""
        return self._healer.tokens(self._rest) if self._rest else self._healer.everything()
