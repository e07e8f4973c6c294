"""Where masks are made: memory that is kept, and lent to the answers of a step until each has its next mask."""

import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Memory = Callable[[int], NDArray[np.int32]]  # returns room for so many 32-bit words, or a few more
_MOST_LENT = 8  # steps whose masks are held at once: those of rows that wait are copied rather than pile up


def ordinary(count: int) -> NDArray[np.int32]:
    """Return room of the host's for so many 32-bit words."""
    return np.empty(count, np.int32)


class Block:
    """Room for so many masks. The view of each stays the same object, so a device finds its place once.

    Args:
        memory: makes the room.
        count: masks.
        width: 32-bit words of each.
    """

    def __init__(self, memory: Memory, count: int, width: int) -> None:
        self.words = memory(count * width)[: count * width].reshape(count, width)
        self.rows = list(self.words)

    def holds(self, count: int, width: int) -> bool:
        """Whether so many masks of that width have room."""
        return len(self.rows) >= count and self.words.shape[1] == width


class Scratch:
    """Memory that is written anew each time."""

    def __init__(self) -> None:
        self._block: Block | None = None

    def block(self, count: int, width: int) -> Block:
        """Return room for so many masks, whatever stands there."""
        if self._block is None or not self._block.holds(count, width):
            self._block = Block(ordinary, count, width)
        return self._block


class Lease:
    """Memory of one step's masks, which goes back to where it came from when nobody holds the lease any more."""

    def __init__(self, free: list[Block], memory: Memory) -> None:
        self._free, self._memory = free, memory
        self._block: Block | None = None

    def block(self, count: int, width: int) -> Block:
        """Return room for so many masks, whatever stands there; to be called once."""
        block = self._free.pop() if self._free else None
        if block is None or not block.holds(count, width):
            block = Block(self._memory, count + count // 4, width)  # and so a few rows more need no other
        self._block = block
        return block

    def __del__(self) -> None:
        if self._block is not None:
            self._free.append(self._block)


class Room:
    """Lends memory.

    Args:
        memory: makes it, and need not get it back.
    """

    def __init__(self, memory: Memory) -> None:
        self.scratch = Scratch()
        self._memory = memory
        self._free: list[Block] = []
        self._lent: list[weakref.ref[Lease]] = []

    def lease(self) -> Lease | Scratch:
        """Return memory for the masks of a step; where too many are lent already, for copies."""
        self._lent = [lent for lent in self._lent if lent() is not None]
        if len(self._lent) >= _MOST_LENT:
            return self.scratch
        lease = Lease(self._free, self._memory)
        self._lent.append(weakref.ref(lease))
        return lease
