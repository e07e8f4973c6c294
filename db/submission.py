"""Storing a job in steps that nobody sees until the last one."""

import json
import secrets
from collections.abc import Sequence

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.copying import copy_block
from endmark.db.job_states import close_if_done
from endmark.db.transactions import write
from endmark.jobs.errors import StoreError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState

# One statement, after which a trigger counts the job's shards once.
_CUT = text(
    "WITH RECURSIVE n(shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM n WHERE shard + 1 < :count)"
    " INSERT INTO shards (job_id, shard, first_row, end_row, state)"
    " SELECT :job, shard, shard * CAST(:size AS BIGINT),"
    " CASE WHEN shard + 1 < :count THEN (shard + 1) * CAST(:size AS BIGINT) ELSE :total END, 'queued' FROM n"
)
_AT_ONCE = 250  # rows an INSERT; SQLite takes 32,766 values
_COPY = "COPY rows (job_id, row, cells, sample) FROM STDIN WITH (NULL '')"


def new_job_id() -> str:
    """Return the id of a job to be."""
    return secrets.token_hex(4)


def begin_job(
    store: Store, *, name: str, spec: GenerationSpec, priority: int = 0, job_id: str | None = None
) -> str:
    """Make a job that takes rows and that nobody sees yet; return its id.

    Args:
        job_id: where it was noted before, such that the job can be found again.
    """
    job_id = job_id or new_job_id()

    def work(connection: Connection) -> None:
        connection.execute(
            text(
                "INSERT INTO jobs (id, name, state, priority, model, adapter, created_at, updated_at)"
                f" VALUES (:id, :name, :state, :priority, :model, :adapter, {store.now}, {store.now})"
            ),
            {
                "id": job_id,
                "name": name,
                "state": JobState.SUBMITTING.value,
                "priority": priority,
                "model": spec.model,
                "adapter": spec.adapter,
            },
        )
        add_spec(connection, job_id, 0, spec)

    write(store, work, repeatable=False)
    return job_id


def add_spec(connection: Connection, job_id: str, number: int, spec: GenerationSpec) -> None:
    """Store the spec of a round."""
    connection.execute(
        text("INSERT INTO specs (job_id, round, spec) VALUES (:job, :round, :spec)"),
        {"job": job_id, "round": number, "spec": spec.to_json()},
    )


def add_rows(
    store: Store, job_id: str, first_row: int, cells: Sequence[str], samples: Sequence[int | None] = ()
) -> None:
    """Store rows in one transaction.

    Args:
        first_row: the number of the first of them.
        cells: for each row the JSON list of its cells.
        samples: for each row which answer of its prompt it is; empty where every prompt has one.

    Raises:
        StoreError: the database cannot be used, or the job is no longer being stored.
    """
    insert = _insert_by_copy if store.dialect == "postgresql" else _insert

    def work(connection: Connection) -> None:
        _touch(store, connection, job_id)
        if cells:
            insert(connection, job_id, first_row, cells, samples)

    write(store, work, repeatable=False)


def finish_submission(store: Store, job_id: str, *, columns: Sequence[str], total: int, shard_size: int) -> None:
    """Cut the stored rows into shards and queue the job, or complete one that has no rows.

    Raises:
        StoreError: the database cannot be used, or the job is no longer being stored.
    """
    count = -(-total // shard_size)

    def work(connection: Connection) -> None:
        _touch(store, connection, job_id)
        if total:
            connection.execute(_CUT, {"job": job_id, "count": count, "size": shard_size, "total": total})
        connection.execute(
            text("UPDATE jobs SET state = 'queued', columns = :columns, total = :total WHERE id = :job"),
            {"job": job_id, "columns": json.dumps(list(columns), ensure_ascii=False), "total": total},
        )
        if not total:
            close_if_done(store, connection, job_id)

    write(store, work, repeatable=False, durable=True)


def _touch(store: Store, connection: Connection, job_id: str) -> None:
    """Note that the job is still being stored."""
    done = connection.execute(
        text(
            f"UPDATE jobs SET updated_at = {store.now} WHERE id = :job AND state = 'submitting' AND updated_at > 0"
        ),
        {"job": job_id},
    )
    if done.rowcount != 1:
        raise StoreError(f"job `{job_id}` is no longer being stored", hint="submit the dataset again")


def _insert(
    connection: Connection, job_id: str, first_row: int, cells: Sequence[str], samples: Sequence[int | None]
) -> None:
    """Store rows, many a statement: while one runs, the driver lets other threads go on."""
    for begin in range(0, len(cells), _AT_ONCE):
        part = cells[begin : begin + _AT_ONCE]
        values: list[object] = []
        for row, text_of_row in enumerate(part, first_row + begin):
            values += (job_id, row, text_of_row)
            if samples:
                values.append(samples[row - first_row])
        names, marks = (
            ("job_id, row, cells, sample", "(?, ?, ?, ?)") if samples else ("job_id, row, cells", "(?, ?, ?)")
        )
        statement = f"INSERT INTO rows ({names}) VALUES " + ", ".join([marks] * len(part))
        connection.exec_driver_sql(statement, tuple(values))


def _insert_by_copy(
    connection: Connection, job_id: str, first_row: int, cells: Sequence[str], samples: Sequence[int | None]
) -> None:
    """Store rows by Postgres's COPY, as one block: JSON has no tab and no line end in it, only backslashes."""
    numbers = samples or [None] * len(cells)
    lines = [
        f"{job_id}\t{row}\t{text_of_row}\t{'' if sample is None else sample}\n"
        for row, (text_of_row, sample) in enumerate(zip(cells, numbers, strict=True), first_row)
    ]
    block = "".join(lines).replace("\\", "\\\\")
    copy_block(connection, _COPY, block)
