"""One process at a time trains into a folder; what goes wrong with it is told with the fix."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from endmark.jobs.errors import EndmarkError, SpecError
from endmark.jobs.launch.locks import try_lock

LOCK = "run.lock"  # in the folder while a process trains into it
_PATIENCE = 30.0  # seconds: as long as a cancelled training may take to notice
_POLL = 0.2
_NO_ROOM = 64 * 2**20  # bytes left, with which a write has failed for want of them


@contextmanager
def held(output: Path, waiting: Callable[[], None], *, patience: float = _PATIENCE) -> Iterator[None]:
    """Keep the folder, made if need be, to this process; its death lets go of it.

    Args:
        output: the folder.
        waiting: called once if another process holds it.
        patience: seconds to wait for that one to end.

    Raises:
        SpecError: it cannot be written, or the other process goes on.
    """
    path = output / LOCK
    deadline = time.monotonic() + patience
    said = False
    while not (lock := _try_lock(path)):
        if time.monotonic() > deadline:
            raise SpecError(
                f"another process trains into `{output}`",
                hint="let it end, then call again; or choose another folder with `-o`",
            )
        if not said:
            said = True
            waiting()
        time.sleep(_POLL)
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _try_lock(path: Path) -> BinaryIO | None:
    """Return the locked file, or None if another process has it.

    Raises:
        SpecError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    except OSError as error:
        raise SpecError(
            f"cannot write to the folder `{path.parent}`: {error.strerror}", hint="choose another with `-o`"
        ) from error
    if try_lock(lock) and path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
        return lock
    lock.close()  # held by another process, or removed by it just before it was locked here
    return None


def disk_error(error: Exception, output: Path) -> EndmarkError | None:
    """Return what an error says of the disk; None if it is not about that.

    Libraries tell a full disk each in its own way (PyTorch: `unexpected pos`), so the room left is looked at.
    """
    hint = "make room; the same command then goes on from the last checkpoint"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (output.is_dir() and shutil.disk_usage(output).free < _NO_ROOM):
        return EndmarkError(f"the disk that holds `{output}` is full", hint=hint)
    if isinstance(error, OSError) and error.filename is not None:
        return EndmarkError(f"cannot use `{error.filename}`: {error.strerror}")
    return None
