"""Files written for the user: a regular one whole or not at all, through links; anything else is written into.

`-o` may name a file, a link to one, a named pipe, `/dev/null`, `/dev/stdout` or what a shell puts in place of
`>(command)`. Only a regular file is replaced, by one of the same mode; all others stay what they are.
"""

import fcntl
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from endmark.jobs.compression import check_compression, compressed, split_name
from endmark.jobs.errors import UsageError
from endmark.jobs.spelling import size

_ELSEWHERE = "make room, or name another place"
_OWN_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/(?:self|thread-self))/fd/(\d+)")
_LINKS = 40  # as many as the kernel follows
_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
_REFUSED = ((stat.S_ISDIR, "a folder", "name a file in it"), (stat.S_ISSOCK, "a socket", "name a file"))


def is_regular(path: Path) -> bool:
    """Whether what a path leads to is a regular file, or will be one when it is written."""
    try:
        return descriptor(path) is None and stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


def descriptor(path: Path) -> int | None:
    """Return the number of the open file of this process that a path names, as `/dev/stdout` does; else None."""
    for _ in range(_LINKS):
        found = _OWN_DESCRIPTOR.fullmatch(str(path.absolute()))
        if found:
            return _STREAMS[found[1]] if found[1] else int(found[2])
        try:
            path = path.parent / path.readlink()
        except OSError:  # no link
            return None
    return None


def same_file(one: Path | int, other: Path | int) -> bool:
    """Whether two paths, or descriptors, lead to one regular file, by links of either kind."""
    try:
        first, second = (os.fstat(item) if isinstance(item, int) else item.stat() for item in (one, other))
    except OSError:
        return False
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)


def check_writable(path: Path, *, room: int = 0) -> None:
    """Refuse a file that could not be written in the end; nothing is left behind.

    Args:
        room: bytes that it will have at least.

    Raises:
        UsageError: with what stands in the way.
        MissingDependency: its name ends in a compression whose library is not installed.
    """
    check_compression(split_name(path.name)[1])
    try:
        if (number := descriptor(path)) is not None:
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise UsageError(f"`{path}` is open to be read only", hint="name a file")
            return
        found = _stat(path)
        for is_kind, what, hint in _REFUSED:
            if found is not None and is_kind(found.st_mode):
                raise UsageError(f"`{path}` is {what}", hint=hint)
        if found is not None and not os.access(path, os.W_OK):
            raise UsageError(f"you may not write to `{path}`", hint="name another file, or change its mode")
        if found is None or stat.S_ISREG(found.st_mode):
            _check_folder(path, found, room)
    except OSError as error:
        raise unwritable(f"`{path}`", error) from error


def _check_folder(path: Path, found: os.stat_result | None, room: int) -> None:
    """Refuse a folder that is not there, takes no file, or has no room."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder `{target.parent}` for `{path}`", hint="make it first")
    if found is None or os.access(target.parent, os.W_OK):
        beside, handle = _beside(target)
        os.close(handle)
        beside.unlink()
    system = os.statvfs(target.parent)
    free = system.f_bavail * system.f_frsize
    if system.f_blocks and free < room:
        raise UsageError(
            f"`{target.parent}` has {size(free)} free, and `{path}` will need {size(room)} or more",
            hint=_ELSEWHERE,
        )


@contextmanager
def written(path: Path, *, binary: bool = False, errors: str = "backslashreplace") -> Iterator[IO[Any]]:
    """Open a file to be written; a regular one takes its place when the block has ended without an error.

    A name that ends in a compression is compressed. Text is UTF-8, its line ends as they are written.

    Args:
        errors: what becomes of characters that UTF-8 does not have: a lone surrogate stays JSON by default.

    Raises:
        UsageError: it cannot be written; a regular file is what it was.
    """
    suffix = split_name(path.name)[1]
    try:
        check_compression(suffix)
        with _raw(path) as raw:
            inner = compressed(raw, suffix, "wb") if suffix else raw
            handle = inner if binary else io.TextIOWrapper(inner, "utf-8", errors, newline="")
            try:
                yield handle
                handle.flush()
            finally:
                _let_go(handle, inner, raw)
    except BrokenPipeError:
        raise  # the reader has had enough, which is no error
    except OSError as error:
        raise unwritable(f"`{path}`", error) from error


def _let_go(handle: IO[Any], inner: BinaryIO, raw: BinaryIO) -> None:
    """Take the layers off the raw file, which stays open; a compressed stream writes its end."""
    if isinstance(handle, io.TextIOWrapper):
        handle.detach()
    if inner is not raw:
        inner.close()


def unwritable(what: str, error: OSError) -> UsageError:
    """Return the error for a file that does not take what is to be written."""
    return UsageError(f"cannot write {what}: {error.strerror or error}", hint=_ELSEWHERE)


@contextmanager
def _raw(path: Path) -> Iterator[BinaryIO]:
    """Open a file's bytes: beside its place if it is regular, else as it stands."""
    number = descriptor(path)
    if number is not None:
        with os.fdopen(os.dup(number), "wb") as stream:
            yield stream
        return
    found = _stat(path)
    target = Path(os.path.realpath(path))
    if found is not None and not (stat.S_ISREG(found.st_mode) and os.access(target.parent, os.W_OK)):
        with path.open("wb") as stream:
            yield stream
        return
    beside, handle = _beside(target)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _take_place(beside, target, found)
    finally:
        beside.unlink(missing_ok=True)


def _beside(target: Path) -> tuple[Path, int]:
    """Make a new file in the target's folder, with the mode that new files have; return its descriptor too."""
    beside = target.with_name(f".endmark-{os.getpid()}-{secrets.token_hex(4)}.part")
    return beside, os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _take_place(beside: Path, target: Path, found: os.stat_result | None) -> None:
    """Put a whole file where the target stood, under its mode and owner."""
    if found is not None:
        with suppress(PermissionError):
            os.chown(beside, found.st_uid, found.st_gid)
        beside.chmod(stat.S_IMODE(found.st_mode))
    try:
        beside.replace(target)
    except OSError:
        if found is None:
            raise
        shutil.copyfile(beside, target)  # a file that a container has mounted cannot be replaced


def _stat(path: Path) -> os.stat_result | None:
    """Return what a path leads to; None if nothing is there yet."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def as_binary(stream: IO[Any]) -> BinaryIO:
    """Return a text stream's bytes, as standard output has them.

    Raises:
        UsageError: it has none.
    """
    raw = getattr(stream, "buffer", None)
    if raw is None:
        raise UsageError("this format is no text for a terminal", hint="name a file: `-o results.parquet`")
    return cast(BinaryIO, raw)
