"""Reading from a pipe or a terminal, where the next bytes may take hours, such that Ctrl-C is never lost."""

import io
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

_AT_ONCE = 2**16


def interruptible(stream: BinaryIO) -> io.BufferedReader:
    """Return a reader of the stream's bytes, of which none may have been read, that a signal wakes; it stays open.

    Python's own may sleep through one: a signal that comes just before the system call does not interrupt it, and
    the handler runs only after it.
    """
    try:
        number = stream.fileno()
    except (OSError, AttributeError):  # a buffer in memory
        return io.BufferedReader(cast(io.RawIOBase, stream))
    return io.BufferedReader(_Raw(number), _AT_ONCE)


class _Raw(io.RawIOBase):
    """The bytes of a descriptor, which is not closed with it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Read what there is, once there is anything; 0 at the end."""
        with _woken() as waker:
            while self._number not in select.select([self._number, *waker], [], [])[0]:
                os.read(waker[0], _AT_ONCE)  # of a signal whose handler lets us go on
        return os.readv(self._number, [buffer])


@contextmanager
def _woken() -> Iterator[list[int]]:
    """Let every signal write to a pipe meanwhile, to be waited for too; only the main thread handles signals."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield [reader]
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
