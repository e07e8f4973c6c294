"""Where masks are made: memory that is kept, and lent to the answers of a step until each has its next mask."""

import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Memory = Callable[[int], NDArray[np.int32]]  # returns room for so many 32-bit words
_MOST_LENT = 8  # steps whose masks are held at once: those of rows that wait are copied rather than pile up


class Scratch:
    """Memory that is written anew each time."""

    def __init__(self) -> None:
        self._room = np.empty(0, np.int32)

    def words(self, count: int, width: int) -> NDArray[np.int32]:
        """Return (count, width), whatever stands there."""
        if len(self._room) < count * width:
            self._room = np.empty(count * width, np.int32)
        return self._room[: count * width].reshape(count, width)


class Lease:
    """Memory of one step's masks, which goes back to where it came from when nobody holds the lease any more."""

    def __init__(self, free: list[NDArray[np.int32]], memory: Memory) -> None:
        self._free, self._memory = free, memory
        self._room: NDArray[np.int32] | None = None

    def words(self, count: int, width: int) -> NDArray[np.int32]:
        """Return (count, width), whatever stands there; to be called once."""
        room = self._free.pop() if self._free else None
        if room is None or len(room) < count * width:
            room = self._memory((count + count // 4) * width)  # and so a few rows more need no other
        self._room = room
        return room[: count * width].reshape(count, width)

    def __del__(self) -> None:
        if self._room is not None:
            self._free.append(self._room)


class Room:
    """Lends memory.

    Args:
        memory: makes it, and need not get it back.
    """

    def __init__(self, memory: Memory) -> None:
        self.scratch = Scratch()
        self._memory = memory
        self._free: list[NDArray[np.int32]] = []
        self._lent: list[weakref.ref[Lease]] = []

    def lease(self) -> Lease | Scratch:
        """Return memory for the masks of a step; where too many are lent already, for copies."""
        self._lent = [lent for lent in self._lent if lent() is not None]
        if len(self._lent) >= _MOST_LENT:
            return self.scratch
        lease = Lease(self._free, self._memory)
        self._lent.append(weakref.ref(lease))
        return lease
