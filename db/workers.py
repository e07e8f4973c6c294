"""The worker processes, as each reports itself, and the time that they work for jobs."""

from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.job_states import row_lock
from endmark.db.transactions import reading, write
from endmark.jobs.progress import WorkerInfo, WorkerReport

ALIVE_SECONDS = 60.0  # since its last report, for a worker to count as alive
_FORGOTTEN_AFTER = 3600.0
_LONGEST_REPORT = 30.0  # seconds since the one before, beyond which a worker has been away rather than at work
_COLUMNS = (
    "worker", "model", "adapter", "device", "weights", "weight_bytes", "kv_tokens", "tokens_per_second",
    "engine",
)  # fmt: skip


def report_worker(store: Store, report: WorkerReport) -> None:
    """Note that a worker is alive, and what it holds; charge its time since the last report to the jobs it held.

    What is short of a report at a job's end is not charged: up to a report of each worker.

    Raises:
        StoreError: the database cannot be used.
    """
    changes = ", ".join(f"{name} = excluded.{name}" for name in (*_COLUMNS[1:], "heartbeat"))
    statement = (
        f"INSERT INTO workers ({', '.join(_COLUMNS)}, heartbeat)"
        f" VALUES ({', '.join(':' + name for name in _COLUMNS)}, {store.now})"
        f" ON CONFLICT (worker) DO UPDATE SET {changes}"
    )
    values = {name: getattr(report, name) for name in _COLUMNS}

    def work(connection: Connection) -> list[tuple[str, float]]:
        worked = _worked(store, connection, report.worker)
        connection.execute(text(statement), values)
        return worked

    for job_id, seconds in write(store, work):  # a transaction each: whoever locks several jobs may wait for ever
        write(store, partial(_charge, job_id=job_id, seconds=seconds), repeatable=False)


def _worked(store: Store, connection: Connection, worker: str) -> list[tuple[str, float]]:
    """Return for which jobs a worker has worked since its last report, and how long, by the shards it holds."""
    seconds = connection.execute(
        text(f"SELECT {store.now} - heartbeat FROM workers WHERE worker = :worker"), {"worker": worker}
    ).scalar()
    if seconds is None or not 0 < seconds <= _LONGEST_REPORT:
        return []
    held = connection.execute(
        text(
            "SELECT job_id, count(*) AS shards FROM shards WHERE state = 'running' AND worker = :worker"
            " GROUP BY job_id"
        ),
        {"worker": worker},
    ).all()
    whole = sum(item.shards for item in held)
    return [(item.job_id, float(seconds) * item.shards / whole) for item in held]


def _charge(connection: Connection, *, job_id: str, seconds: float) -> None:
    """Add to the time that devices have worked for a job."""
    connection.execute(
        text("UPDATE jobs SET device_seconds = device_seconds + :seconds WHERE id = :job"),
        {"job": job_id, "seconds": seconds},
    )


def remove_worker(store: Store, worker: str) -> None:
    """Forget a worker that has ended.

    Raises:
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> None:
        connection.execute(text("DELETE FROM workers WHERE worker = :worker"), {"worker": worker})

    write(store, work)


def bury_worker(store: Store, worker: str) -> None:
    """Forget a worker whose process has died; what it held is due at once, as if its leases had run out.

    Raises:
        StoreError: the database cannot be used.
    """
    held = "worker = :worker AND state = 'running'"

    def work(connection: Connection) -> None:
        if store.dialect == "postgresql":  # in the order in which heartbeats lock them
            order = f"SELECT 1 FROM shards WHERE {held} ORDER BY job_id, shard{row_lock(store)}"
            connection.execute(text(order), {"worker": worker})
        for table in ("shards", "finetunings"):
            connection.execute(text(f"UPDATE {table} SET lease_until = 0 WHERE {held}"), {"worker": worker})
        connection.execute(text("DELETE FROM workers WHERE worker = :worker"), {"worker": worker})

    write(store, work)


def forget_silent_workers(store: Store) -> None:
    """Forget workers that have not reported themselves for an hour."""

    def work(connection: Connection) -> None:
        connection.execute(
            text(f"DELETE FROM workers WHERE heartbeat < {store.now} - :age"), {"age": _FORGOTTEN_AFTER}
        )

    write(store, work)


def list_workers(store: Store, *, max_age: float = ALIVE_SECONDS) -> list[WorkerInfo]:
    """Return the workers that have reported themselves within `max_age` seconds.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text(
                f"SELECT w.{', w.'.join(_COLUMNS)}, {store.now} - w.heartbeat AS heartbeat_age,"
                " coalesce(h.shards, 0) AS shards FROM workers w LEFT JOIN (SELECT s.worker, count(*) AS shards"
                " FROM shards s WHERE s.state = 'running' GROUP BY s.worker) h ON h.worker = w.worker"
                f" WHERE w.heartbeat BETWEEN {store.now} - :age AND {store.now} + :age"
                " ORDER BY w.worker"
            ),
            {"age": max_age},
        ).mappings()
        return [_info(item) for item in found]


def workers_for(store: Store, model: str, adapter: str | None) -> list[WorkerInfo]:
    """Return the workers alive that hold this model with this adapter.

    Raises:
        StoreError: the database cannot be used.
    """
    return [item for item in list_workers(store) if (item.model, item.adapter) == (model, adapter)]


def _info(item: Any) -> WorkerInfo:  # noqa: ANN401 - a mapping of columns
    """Return a worker as stored; the clock may have been put back since."""
    return WorkerInfo(**{**item, "heartbeat_age": max(0.0, item["heartbeat_age"])})
