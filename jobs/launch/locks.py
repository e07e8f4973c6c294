"""Locks on files, which the kernel lets go of when their process ends, however it ends."""

import fcntl
from typing import IO


def try_lock(file: IO[bytes]) -> bool:
    """Lock a file for its process alone, until it is closed; return False where another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
