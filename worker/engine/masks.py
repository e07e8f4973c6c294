"""Which tokens may follow an answer: masks as bits, for rows that have a shape."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TokenMask(Protocol):
    """Which tokens may follow an answer as it grows. `see` may leave work that `words` waits for."""

    def see(self, token_id: int) -> None:
        """Take the answer's next token, which is no end token."""

    def start(self) -> None:
        """Begin with work that `see` has left, of all answers of a step at once."""

    def words(self) -> NDArray[np.int32]:
        """Return a bit for each token, (ceil(V / 32),): 1 where it may follow. Tokens beyond the last may not."""

    def give_back(self) -> None:
        """Go back by `surplus` tokens."""

    @property
    def surplus(self) -> int:
        """How many of the last tokens are to be taken back before another is drawn; once `words` has returned."""

    @property
    def closes(self) -> bool:
        """Whether it lets only one way to the end follow, as no more is left of the budget."""

    @property
    def steady(self) -> bool:
        """Whether `words` stay as they are whatever comes; from then on no token is seen."""

    @property
    def refusal(self) -> str:
        """Why no token may follow, once `words` has returned; empty where one may."""


class FreeMask:
    """A mask that lets every token follow, as before the part of an answer that has one begins.

    Args:
        vocabulary: tokens.
    """

    refusal, surplus, closes, steady = "", 0, False, False  # the token in flight may begin that part

    def __init__(self, vocabulary: int) -> None:
        self._words = np.full(-(-vocabulary // 32), -1, np.int32)

    def see(self, token_id: int) -> None:
        """Take the answer's next token."""

    def start(self) -> None:
        """Begin with nothing."""

    def give_back(self) -> None:
        """Go back by no token."""

    def words(self) -> NDArray[np.int32]:
        """Return ones."""
        return self._words


class OpeningMask:
    """A mask that also lets the token follow which opens a phase, as the answer's first.

    Args:
        mask: of an answer that is in no phase.
        token_id: that opens one.
    """

    def __init__(self, mask: TokenMask, token_id: int) -> None:
        self._mask, self._token_id, self._begun = mask, token_id, False

    @property
    def steady(self) -> bool:
        """No: it follows the answer's first token."""
        return False

    @property
    def refusal(self) -> str:
        """Why no token may follow; empty where one may, as that which opens the phase."""
        return self._mask.refusal if self._begun else ""

    @property
    def surplus(self) -> int:
        """How many of the last tokens are to be taken back."""
        return self._mask.surplus

    @property
    def closes(self) -> bool:
        """Whether it lets only one way to the end follow."""
        return self._mask.closes

    def start(self) -> None:
        """Begin with what the mask has left to be done."""
        self._mask.start()

    def give_back(self) -> None:
        """Go back by `surplus` tokens."""
        self._mask.give_back()

    def see(self, token_id: int) -> None:
        """Take the answer's next token; one that opens the phase is none of the mask's."""
        if self._begun or token_id != self._token_id:
            self._mask.see(token_id)
        self._begun = True

    def words(self) -> NDArray[np.int32]:
        """Return a bit for each token, as `TokenMask` has them."""
        words = self._mask.words()
        if self._begun:
            return words
        width = max(len(words), self._token_id // 32 + 1)
        opened = np.zeros(width, np.int32)
        opened[: len(words)] = words
        opened.view(np.uint32)[self._token_id // 32] |= np.uint32(1 << self._token_id % 32)
        return opened


def allowed(words: NDArray[np.int32], vocabulary: int) -> NDArray[np.bool_]:
    """Return the bits of a mask, (vocabulary,)."""
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:vocabulary]
    return np.pad(bits, (0, vocabulary - len(bits))).astype(bool)
