"""The folder of the service: the content of uploaded and finished files, and what it is known by.

A file's record is in the ledger. Beside content that has no record yet, or none any more, lies a mark, so that
what a killed service has left behind is found. One service uses a folder at a time, and its lock sees to it.
"""

import re
import secrets
from pathlib import Path
from typing import IO

from endmark.jobs.errors import UsageError
from endmark.jobs.launch.locks import try_lock
from endmark.jobs.private import open_private, private_folder

_MARK = ".part"
_HALVES = (f".*{_MARK}", "*.new", "*.export", "*.errors.jsonl")
_ID = re.compile(r"[0-9a-f]{16}")


class Shelf:
    """The folder. Safe to use from every thread.

    Raises:
        UsageError: another service uses it, its id is damaged, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._files = private_folder(folder / "files")
            self._taken = open_private(folder / "lock")
        except OSError as error:
            raise _unusable(folder, error) from error
        if not try_lock(self._taken):
            self._taken.close()
            raise UsageError(
                f"another `endmark serve` uses `{folder}`",
                hint="end it, or give this one an `ENDMARK_HOME` of its own",
            )
        try:
            self.id = _known_by(folder / "id")  # in the ledger
        except OSError as error:
            self._taken.close()
            raise _unusable(folder, error) from error
        except UsageError:
            self._taken.close()
            raise

    def close(self) -> None:
        """Leave the folder to another service."""
        self._taken.close()

    def content(self, file_id: str) -> Path:
        """Return where a file's content is."""
        return self._files / f"{file_id}.jsonl"

    def begin(self) -> str:
        """Return the id of a file to be, marked as unfinished; its content is to be written next."""
        file_id = f"file-{secrets.token_hex(12)}"
        self.mark(file_id)
        return file_id

    def mark(self, file_id: str) -> None:
        """Note that a file has no record yet, or is about to lose it."""
        open_private(self._files / f"{file_id}{_MARK}").close()

    def keep(self, file_id: str) -> None:
        """Note that a file has a record."""
        (self._files / f"{file_id}{_MARK}").unlink(missing_ok=True)

    def remove(self, file_id: str) -> None:
        """Delete a marked file that has no record."""
        for left in self._files.glob(f"{file_id}.*"):
            if left.suffix != _MARK:
                left.unlink()
        self.keep(file_id)

    def marked(self) -> list[str]:
        """Return the ids of the marked files."""
        return sorted(path.stem for path in self._files.glob(f"*{_MARK}") if not path.name.startswith("."))

    def write(self, file_id: str) -> IO[bytes]:
        """Open a file's content to be written, for its owner alone to read."""
        return open_private(self.content(file_id), "wb")

    def sweep(self) -> None:
        """Delete the halves of files that a killed service was writing, before this one writes any."""
        for pattern in _HALVES:
            for left in self._files.glob(pattern):
                left.unlink()


def _unusable(folder: Path, error: OSError) -> UsageError:
    """Return the error for a folder that cannot be written."""
    return UsageError(
        f"cannot use the folder `{folder}`: {error.strerror}",
        hint="make room, correct its owner and mode, or set ENDMARK_HOME to another folder",
    )


def _known_by(path: Path) -> str:
    """Return the id of a folder, which it gets once."""
    try:
        found = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        found = ""
    if _ID.fullmatch(found):
        return found
    if found:
        raise UsageError(
            f"`{path}` does not hold the id of this folder", hint="restore it; the ledger's files go by it"
        )
    fresh = secrets.token_hex(8)
    beside = path.with_suffix(".new")
    with open_private(beside, "wb") as target:
        target.write(f"{fresh}\n".encode())
    beside.replace(path)
    return fresh
