"""Files of the Batch API in the ledger; their content lies in the folder of the service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from endmark.db.job_states import row_lock
from endmark.db.served import FILE_ID, Caller, Records, read_one, read_page
from endmark.db.transactions import reading, write

_COLUMNS = "id, owner, filename, purpose, bytes, created_at, expires_at"
PURPOSES = ("batch", "batch_output")


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file."""

    id: str
    owner: str
    filename: str
    purpose: str  # one of PURPOSES
    bytes: int
    created_at: int  # seconds since 1970
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that has been written, to be taken in."""

    id: str
    owner: str
    filename: str
    purpose: str
    bytes: int
    seconds: int | None = None  # until it expires


def add_file(records: Records, file: NewFile) -> ServedFile:
    """Take in a file.

    Raises:
        StoreError: the database cannot be used.
    """
    write(records.store, lambda connection: insert_file(records, connection, file))
    found = find_file(records, file.id)
    assert found is not None
    return found


def insert_file(records: Records, connection: Connection, file: NewFile, created_at: float | None = None) -> None:
    """Take in a file with what else is done in a transaction; again it changes nothing.

    Args:
        created_at: seconds since 1970; now by default.
    """
    created = records.store.now if created_at is None else ":created"
    expires = "NULL" if file.seconds is None else f"{created} + :seconds"
    connection.execute(
        text(
            "INSERT INTO files (id, shelf, owner, filename, purpose, bytes, created_at, expires_at)"
            f" VALUES (:id, :shelf, :owner, :filename, :purpose, :bytes, {created}, {expires})"
            " ON CONFLICT (id) DO NOTHING"
        ),
        {
            "id": file.id,
            "shelf": records.shelf,
            "owner": file.owner,
            "filename": file.filename,
            "purpose": file.purpose,
            "bytes": file.bytes,
            "created": created_at,
            "seconds": file.seconds,
        },
    )


def find_file(records: Records, file_id: str, caller: Caller | None = None) -> ServedFile | None:
    """Return a file that a caller may see, or None; one that has expired is there for the service alone.

    Raises:
        StoreError: the database cannot be used.
    """
    if not FILE_ID.fullmatch(file_id):
        return None
    condition, values = _visible(records, caller)
    with reading(records.store) as connection:
        row = connection.execute(
            text(f"SELECT {_COLUMNS} FROM files WHERE id = :id AND {condition}"), {**values, "id": file_id}
        ).one_or_none()
    return None if row is None else read_one(row, _file)


def lock_file(records: Records, connection: Connection, file_id: str, caller: Caller | None) -> bool:
    """Whether a caller may see a file, which stays until the transaction ends."""
    condition, values = _visible(records, caller)
    statement = f"SELECT 1 FROM files WHERE id = :id AND {condition}{row_lock(records.store)}"
    return connection.execute(text(statement), {**values, "id": file_id}).scalar() is not None


def list_files(
    records: Records,
    caller: Caller,
    *,
    after: str | None,
    limit: int,
    purpose: str | None = None,
    ascending: bool = False,
) -> list[ServedFile]:
    """Return the files that a caller may see, the newest first or last, but for damaged records.

    Args:
        after: id of a file, behind which they begin.

    Raises:
        StoreError: the database cannot be used.
    """
    if purpose is not None and purpose not in PURPOSES:
        return []
    condition, values = _visible(records, caller)
    if purpose is not None:
        condition += " AND purpose = :purpose"
    if after is not None:
        condition += f" AND number {'>' if ascending else '<'} (SELECT number FROM files WHERE id = :after)"
    statement = f"SELECT {_COLUMNS} FROM files WHERE {condition} ORDER BY number {'ASC' if ascending else 'DESC'}"
    return read_page(records.store, statement, {**values, "purpose": purpose, "after": after}, _file, limit)


def delete_file(records: Records, file_id: str, caller: Caller | None) -> bool:
    """Forget a file, unless a batch is being made of it; return whether it is forgotten.

    Raises:
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> bool:
        if not lock_file(records, connection, file_id, caller):
            return True
        used = connection.execute(
            text("SELECT 1 FROM batches WHERE shelf = :shelf AND input_file_id = :id AND state = 'validating'"),
            {"shelf": records.shelf, "id": file_id},
        )
        if used.scalar() is not None:
            return False
        connection.execute(text("DELETE FROM files WHERE id = :id"), {"id": file_id})
        return True

    return write(records.store, work)


def expired_files(records: Records) -> Sequence[str]:
    """Return the ids of files whose time is over.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(records.store) as connection:
        return (
            connection.execute(
                text(f"SELECT id FROM files WHERE shelf = :shelf AND expires_at <= {records.store.now}"),
                {"shelf": records.shelf},
            )
            .scalars()
            .all()
        )


def _visible(records: Records, caller: Caller | None) -> tuple[str, dict[str, object]]:
    """Return the condition for files that a caller may see."""
    condition, values = records.visible(caller)
    if caller is not None:
        condition += f" AND (expires_at IS NULL OR expires_at > {records.store.now})"
    return condition, values


def _file(row: Any) -> ServedFile:  # noqa: ANN401 - a row of the query
    """Return a file as it was read."""
    expires = None if row.expires_at is None else int(row.expires_at)
    return ServedFile(row.id, row.owner, row.filename, row.purpose, int(row.bytes), int(row.created_at), expires)
