"""What a database says, as errors that name the fix."""

import shutil
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    TimeoutError,
)

from endmark.jobs.errors import SchemaError, StoreError

_ROOM = 1_000_000  # bytes; with less, SQLite cannot even make the files beside its own that a reader needs


def failure(url: URL, error: DBAPIError | TimeoutError) -> StoreError:
    """Return the error that says what the database did not do, and what helps."""
    reason = _reason(error)
    if "disk I/O error" in reason and url.database and _free(Path(url.database)) < _ROOM:
        reason += ", for the disk is full"
    if isinstance(error, ProgrammingError) or "no such table" in reason or "no such column" in reason:
        return SchemaError(
            f"the database is not as this program knows it: {reason}", hint="run `endmark db upgrade`"
        )
    shown = url.difference_update_query(["password"]).render_as_string()
    return StoreError(
        f"the database `{shown}` cannot be used: {reason}",
        hint=_fix(url.get_backend_name(), reason),
    )


def passes(error: DBAPIError | TimeoutError) -> bool:
    """Whether the same work may succeed in a moment."""
    return isinstance(error, OperationalError) and not _is_full(_reason(error))


def refuses_values(error: StoreError) -> bool:
    """Whether the database refuses what is to be stored, as it would again."""
    return isinstance(error.__cause__, DataError | IntegrityError)


def _reason(error: Exception) -> str:
    """Return the first line of what the driver said."""
    said = str(getattr(error, "orig", None) or error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def _free(path: Path) -> int:
    """Return the bytes that are free on the disk of a file."""
    try:
        return shutil.disk_usage(path.absolute().parent).free
    except OSError:
        return _ROOM  # its folder is gone, which is another trouble


def _fix(dialect: str, reason: str) -> str:
    """Return what a user can do about it."""
    if _is_full(reason):
        return "make room on the disk; what is stored is kept"
    if dialect != "sqlite":
        return "check that the server runs, and ENDMARK_DATABASE_URL"
    if "not a database" in reason or "malformed" in reason:
        return "the file is damaged or not Endmark's: name another in ENDMARK_DATABASE_URL"
    if "locked" in reason:
        return "another process holds the file: end it, or use Postgres for many writers"
    return "check that the file and its folder can be written"


def _is_full(reason: str) -> bool:
    """Whether the disk is full."""
    return any(said in reason for said in ("is full", "No space left", "could not extend"))
