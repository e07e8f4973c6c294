"""White space between the parts of a JSON value has an end, where llguidance (before 1.9) does not see to that."""

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.shapes.grammar import SPACES
from endmark.worker.engine.text import Vocabulary

START = 0  # a place: how much white space stands there outside of strings, up to SPACES, or one of these
_INSIDE = SPACES + 1  # a string
_ESCAPED = SPACES + 2  # a string, behind a backslash
_PLACES = SPACES + 3
_WHITE = b" \t\r\n"


class WhiteSpace:
    """Which tokens of a model would write more white space in a row than `SPACES`, by the place where they follow.

    Args:
        vocabulary: of the model's tokeniser.
        count: 32-bit words of a mask.
    """

    def __init__(self, vocabulary: Vocabulary, count: int) -> None:
        self._vocabulary = vocabulary
        kept = np.ones((_PLACES, count * 32), np.uint8)
        for token_id, data in enumerate(vocabulary.token_bytes):
            run = len(data) - len(data.lstrip(_WHITE))
            if run > 1 or len(data) - len(data.translate(None, _WHITE)) > SPACES:
                kept[:, token_id] = [not _behind(place, data)[1] for place in range(_PLACES)]
            elif run:
                kept[SPACES, token_id] = 0
        self._kept = np.packbits(kept, axis=1, bitorder="little").view(np.int32)

    def behind(self, place: int, token_id: int) -> int:
        """Return the place behind one token more."""
        return _behind(place, self._vocabulary.bytes_of(token_id))[0]

    def within(self, words: NDArray[np.int32], place: int) -> NDArray[np.int32]:
        """Return those of the tokens that may follow, (count,), that may at a place; all if none of them may."""
        kept: NDArray[np.int32] = words & self._kept[place]
        return kept if kept.any() else words


def _behind(place: int, data: bytes) -> tuple[int, bool]:
    """Return the place behind some bytes more, and whether there is too much white space in a row among them."""
    exceeds = False
    for byte in data:
        if place == _ESCAPED:
            place = _INSIDE
        elif place == _INSIDE:
            place = START if byte == 0x22 else _ESCAPED if byte == 0x5C else _INSIDE
        elif byte in _WHITE:
            exceeds |= place == SPACES
            place = min(place + 1, SPACES)
        else:
            place = _INSIDE if byte == 0x22 else START
    return place, exceeds
