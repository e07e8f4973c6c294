"""Records that services of before version 0007 kept beside their files, taken into the ledger."""

import json
from collections.abc import Sequence

from sqlalchemy import Connection, text

from endmark.db.served import NOBODY, Records
from endmark.db.served_batches import ServedBatch
from endmark.db.served_files import ServedFile
from endmark.db.transactions import reading, write


def take_files(records: Records, files: Sequence[ServedFile]) -> None:
    """Store files, the oldest first, all or none; those that are stored already stay as they are.

    Raises:
        StoreError: the database cannot be used.
    """
    statement = text(
        "INSERT INTO files (id, shelf, owner, filename, purpose, bytes, created_at)"
        " VALUES (:id, :shelf, :owner, :filename, :purpose, :bytes, :created_at) ON CONFLICT (id) DO NOTHING"
    )

    def work(connection: Connection) -> None:
        for file in files:
            values = {name: getattr(file, name) for name in ("id", "filename", "purpose", "bytes", "created_at")}
            connection.execute(statement, {**values, "shelf": records.shelf, "owner": NOBODY})

    write(records.store, work)


def take_batches(records: Records, batches: Sequence[ServedBatch]) -> None:
    """Store batches, the oldest first, all or none; those that are stored already stay as they are.

    Raises:
        StoreError: the database cannot be used.
    """
    names = (
        "id",
        "endpoint",
        "input_file_id",
        "completion_window",
        "created_at",
        "expires_at",
        "state",
        "ending",
        "job_id",
        "total",
        "completed",
        "failed",
        "output_file_id",
        "error_file_id",
    )
    columns = ("shelf", "owner", "metadata", "errors", "times", *names)
    statement = text(
        f"INSERT INTO batches ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"
        " ON CONFLICT (id) DO NOTHING"
    )

    def work(connection: Connection) -> None:
        for batch in batches:
            values: dict[str, object] = {name: getattr(batch, name) for name in names}
            values["metadata"] = None if batch.metadata is None else json.dumps(dict(batch.metadata))
            values["errors"] = json.dumps(list(batch.errors)) if batch.errors else None
            values["times"] = json.dumps(dict(batch.times))
            connection.execute(statement, {**values, "shelf": records.shelf, "owner": NOBODY})

    write(records.store, work)


def job_of_name(records: Records, name: str) -> str | None:
    """Return the id of the newest job of a name, or None: a batch of before that did not note its job is found so.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(records.store) as connection:
        found: str | None = connection.execute(
            text(
                "SELECT id FROM jobs WHERE name = :name AND state <> 'submitting'"
                " ORDER BY created_at DESC, id LIMIT 1"
            ),
            {"name": name},
        ).scalar()
    return found
