"""Endmark's own files, which hold prompts and answers: readable by their owner alone, whatever the umask says."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

_OTHERS = 0o077  # what the group and others may do
_OWN = ("broker", "locks", "logs", "serve")  # folders in the home
_OWN_FILES = ("delivery.key",)
_DATABASE = "endmark.db"  # with what SQLite puts beside it


def private_folder(path: Path) -> Path:
    """Make a folder of mode 0700, with those above it, unless it is there; return it.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def open_private(path: Path, mode: str = "ab") -> IO[bytes]:
    """Open a file of ours in a binary mode; a new one has mode 0600.

    Raises:
        OSError: it cannot be opened.
    """
    return open(path, mode, opener=_private_opener)


def _private_opener(path: str, flags: int) -> int:
    """Open a file as `open` does, but for the mode of a new one."""
    return os.open(path, flags, 0o600)


def make_home(home: Path, *, ours: bool) -> None:
    """Make the home, or tighten what an older version left open in it; what is not ours stays as it is.

    Args:
        ours: whether the folder is Endmark's by its name. One that a user has named may hold other things, and its
            own mode is theirs, unless an older version has made it.

    Raises:
        OSError: it cannot be made.
    """
    try:
        home.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        loose = [path for path in _entries(home) if _is_own(path) and _is_loose(path)]
        if (ours or (loose and _made_by_us(home))) and _is_loose(home):
            _tighten(home)
        for path in loose:
            _tighten_all(path)


def _is_own(path: Path) -> bool:
    """Whether a file or folder in the home is one that Endmark makes."""
    return path.name in (*_OWN, *_OWN_FILES) or path.name.startswith(_DATABASE)


def _made_by_us(home: Path) -> bool:
    """Whether a home looks as an older version has made it: nothing else in it, not set up for a group."""
    shared = home.stat().st_mode & (stat.S_ISGID | stat.S_ISVTX)
    return not shared and all(_is_own(path) for path in _entries(home))


def _is_loose(path: Path) -> bool:
    """Whether others may do anything with a file or folder that is this user's; links are nobody's."""
    found = path.lstat()
    return not stat.S_ISLNK(found.st_mode) and found.st_uid == os.getuid() and bool(found.st_mode & _OTHERS)


def _tighten_all(path: Path) -> None:
    """Take a file, or a folder and all in it, from others."""
    with suppress(FileNotFoundError):  # SQLite's files come and go
        if path.is_dir() and not path.is_symlink():
            for item in _entries(path):
                _tighten_all(item)
        if _is_loose(path):
            _tighten(path)


def _tighten(path: Path) -> None:
    """Take a file or folder from others."""
    path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~_OTHERS)


def _entries(folder: Path) -> Iterator[Path]:
    """Return what is in a folder; nothing if it may not be read."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - all at once: others may take some away
    except OSError:
        return
    yield from (folder / name for name in names)
