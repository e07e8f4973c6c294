"""Batches of the Batch API in the ledger: asked for, tied to their jobs, closed with their files."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, text

from endmark.db.job_states import FINAL, row_lock
from endmark.db.served import BATCH_ID, Caller, Records, parsed, read_one, read_page
from endmark.db.served_files import NewFile, insert_file, lock_file
from endmark.db.transactions import reading, write

Ending = Literal["cancelled", "expired"]
Final = Literal["completed", "failed", "cancelled", "expired"]
VALIDATING, IN_PROGRESS = "validating", "in_progress"
OPEN = f"state IN ('{VALIDATING}', '{IN_PROGRESS}')"
_COLUMNS = (
    "id, owner, endpoint, input_file_id, completion_window, metadata, output_seconds, created_at, expires_at,"
    " state, ending, job_id, errors, times, total, completed, failed, output_file_id, error_file_id"
)


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a batch is to be."""

    input_file_id: str
    endpoint: str
    completion_window: str
    seconds: int  # of the window
    metadata: Mapping[str, str] | None = None
    output_seconds: int | None = None  # after which its files expire


@dataclass(frozen=True, slots=True)
class ServedBatch:
    """A batch."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: Mapping[str, str] | None
    output_seconds: int | None
    created_at: int  # seconds since 1970
    expires_at: int | None  # when it is to be done
    state: str  # validating, in_progress, or a final one
    ending: Ending | None  # why it is to end before it is done
    job_id: str | None  # may be noted of a job that is not stored yet
    errors: Sequence[Mapping[str, Any]]
    times: Mapping[str, int]  # `in_progress_at` and the like
    total: int  # requests, counted when its job is stored; how they ended is counted when it is closed
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None

    @property
    def is_open(self) -> bool:
        """Whether something is left to be done for it."""
        return self.state in (VALIDATING, IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a batch ended."""

    state: Final
    errors: Sequence[Mapping[str, Any]] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    output: NewFile | None = None
    error: NewFile | None = None
    finalizing_at: int | None = field(default=None, kw_only=True)  # when its files began to be written


def add_batch(records: Records, caller: Caller, batch: NewBatch) -> ServedBatch | None:
    """Record a batch; None if the caller sees no such file.

    Raises:
        StoreError: the database cannot be used.
    """
    batch_id = f"batch_{secrets.token_hex(12)}"
    now = records.store.now

    def work(connection: Connection) -> bool:
        if not lock_file(records, connection, batch.input_file_id, caller):
            return False
        connection.execute(
            text(
                "INSERT INTO batches (id, shelf, owner, endpoint, input_file_id, completion_window, metadata,"
                " output_seconds, created_at, expires_at, state, times)"
                " VALUES (:id, :shelf, :owner, :endpoint, :file, :window, :metadata, :output_seconds,"
                f" {now}, {now} + :seconds, '{VALIDATING}', '{{}}') ON CONFLICT (id) DO NOTHING"
            ),
            {
                "id": batch_id,
                "shelf": records.shelf,
                "owner": caller.owner,
                "endpoint": batch.endpoint,
                "file": batch.input_file_id,
                "window": batch.completion_window,
                "metadata": None if batch.metadata is None else json.dumps(dict(batch.metadata)),
                "output_seconds": batch.output_seconds,
                "seconds": batch.seconds,
            },
        )
        return True

    return find_batch(records, batch_id) if write(records.store, work) else None


def find_batch(records: Records, batch_id: str, caller: Caller | None = None) -> ServedBatch | None:
    """Return a batch that a caller may see, or None; so for one whose record is damaged.

    Raises:
        StoreError: the database cannot be used.
    """
    if not BATCH_ID.fullmatch(batch_id):
        return None
    condition, values = records.visible(caller)
    with reading(records.store) as connection:
        row = connection.execute(
            text(f"SELECT {_COLUMNS} FROM batches WHERE id = :id AND {condition}"), {**values, "id": batch_id}
        ).one_or_none()
    return None if row is None else read_one(row, _batch)


def list_batches(records: Records, caller: Caller, *, after: str | None, limit: int) -> list[ServedBatch]:
    """Return the batches that a caller may see, the newest first, but for damaged records.

    Args:
        after: id of a batch, behind which they begin.

    Raises:
        StoreError: the database cannot be used.
    """
    condition, values = records.visible(caller)
    if after is not None:
        condition += " AND number < (SELECT number FROM batches WHERE id = :after)"
    statement = f"SELECT {_COLUMNS} FROM batches WHERE {condition} ORDER BY number DESC"
    return read_page(records.store, statement, {**values, "after": after}, _batch, limit)


def due_batches(records: Records) -> list[str]:
    """Return the ids of the batches for which something is to be done now, the oldest first.

    They are those whose file is not checked, that are to end, and whose job has ended or was deleted.

    Raises:
        StoreError: the database cannot be used.
    """
    runs = f"SELECT 1 FROM jobs WHERE jobs.id = batches.job_id AND jobs.state NOT IN ({FINAL})"
    due = f"(state = '{VALIDATING}' OR ending IS NOT NULL OR NOT EXISTS ({runs}))"
    return _ids(records, f"{OPEN} AND {due}")


def expire_batches(records: Records) -> None:
    """Let batches end whose window is over.

    Raises:
        StoreError: the database cannot be used.
    """
    due = f"{OPEN} AND ending IS NULL AND expires_at <= {records.store.now}"
    if _ids(records, due):  # most looks find none, and keep no writer waiting
        statement = f"UPDATE batches SET ending = 'expired' WHERE shelf = :shelf AND {due}"
        write(records.store, lambda connection: connection.execute(text(statement), {"shelf": records.shelf}))


def _ids(records: Records, condition: str) -> list[str]:
    """Return the ids of the shelf's batches that a condition picks, the oldest first."""
    with reading(records.store) as connection:
        found = connection.execute(
            text(f"SELECT id FROM batches WHERE shelf = :shelf AND {condition} ORDER BY number"),
            {"shelf": records.shelf},
        )
        return list(found.scalars())


def cancel_batch(records: Records, batch_id: str) -> bool:
    """Let a batch end now; return whether it had neither ended nor been told to.

    Raises:
        StoreError: the database cannot be used.
    """

    def changes(connection: Connection, batch: ServedBatch) -> Mapping[str, object] | None:
        if batch.ending is not None:
            return None
        return {"ending": "cancelled", "times": _times(records, connection, batch, "cancelling_at")}

    return _change(records, batch_id, changes)


def note_job(records: Records, batch_id: str, job_id: str) -> None:
    """Note which job is to be a batch's, before it is stored.

    Raises:
        StoreError: the database cannot be used.
    """
    _change(records, batch_id, lambda _connection, _batch: {"job_id": job_id})


def begin_batch(records: Records, batch_id: str, total: int) -> None:
    """Note that a batch's job is stored, and how many requests it has.

    Raises:
        StoreError: the database cannot be used.
    """

    def changes(connection: Connection, batch: ServedBatch) -> Mapping[str, object]:
        return {
            "state": IN_PROGRESS,
            "total": total,
            "times": _times(records, connection, batch, "in_progress_at"),
        }

    _change(records, batch_id, changes)


def close_batch(records: Records, batch_id: str, outcome: Outcome) -> bool:
    """Close a batch and take in its files, both or neither; return whether it was open.

    Raises:
        StoreError: the database cannot be used.
    """

    def changes(connection: Connection, batch: ServedBatch) -> Mapping[str, object]:
        for file in (outcome.output, outcome.error):
            if file is not None:
                insert_file(records, connection, file)
        known = {} if outcome.finalizing_at is None else {"finalizing_at": outcome.finalizing_at}
        return {
            "state": outcome.state,
            "errors": json.dumps(list(outcome.errors)) if outcome.errors else None,
            "times": _times(records, connection, batch, f"{outcome.state}_at", known),
            "total": outcome.total,
            "completed": outcome.completed,
            "failed": outcome.failed,
            "output_file_id": outcome.output and outcome.output.id,
            "error_file_id": outcome.error and outcome.error.id,
        }

    return _change(records, batch_id, changes)


def _change(
    records: Records,
    batch_id: str,
    changes: Callable[[Connection, ServedBatch], Mapping[str, object] | None],
) -> bool:
    """Change an open batch; return whether it was changed."""

    def work(connection: Connection) -> bool:
        row = connection.execute(
            text(f"SELECT {_COLUMNS} FROM batches WHERE id = :id AND {OPEN}{row_lock(records.store)}"),
            {"id": batch_id},
        ).one_or_none()
        values = None if row is None else changes(connection, _batch(row))
        if values is None:
            return False
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(text(f"UPDATE batches SET {assignments} WHERE id = :id"), {**values, "id": batch_id})
        return True

    return write(records.store, work)


def _times(
    records: Records,
    connection: Connection,
    batch: ServedBatch,
    name: str,
    known: Mapping[str, int] | None = None,
) -> str:
    """Return a batch's times as JSON, with those that are known and one more, now."""
    now = int(connection.execute(text(f"SELECT {records.store.now}")).scalar_one())
    return json.dumps({**batch.times, **(known or {}), name: now})


def _batch(row: Any) -> ServedBatch:  # noqa: ANN401 - a row of the query
    """Return a batch as it was read.

    Raises:
        ValueError, TypeError: the record is damaged.
    """
    values = row._asdict()
    values["created_at"] = int(row.created_at)
    values["expires_at"] = None if row.expires_at is None else int(row.expires_at)
    values["metadata"] = None if row.metadata is None else parsed(row.metadata, dict)
    values["errors"] = [] if row.errors is None else parsed(row.errors, list)
    values["times"] = parsed(row.times, dict)
    return ServedBatch(**values)
