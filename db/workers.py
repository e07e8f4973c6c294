"""The worker processes, as each reports itself."""

from sqlalchemy import text

from db.connection import Store
from jobs.vocabulary import WorkerInfo, WorkerReport

ALIVE_SECONDS = 60.0  # since its last report, for a worker to count as alive


def report_worker(store: Store, report: WorkerReport) -> None:
    """Note that a worker is alive, and what it holds."""
    with store.writer.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO workers (worker, model, adapter, device, weights, tokens_per_second, heartbeat)"
                f" VALUES (:worker, :model, :adapter, :device, :weights, :speed, {store.now})"
                " ON CONFLICT (worker) DO UPDATE SET model = excluded.model, adapter = excluded.adapter,"
                " device = excluded.device, weights = excluded.weights,"
                " tokens_per_second = excluded.tokens_per_second, heartbeat = excluded.heartbeat"
            ),
            {
                "worker": report.worker,
                "model": report.model,
                "adapter": report.adapter,
                "device": report.device,
                "weights": report.weights,
                "speed": report.tokens_per_second,
            },
        )


def remove_worker(store: Store, worker: str) -> None:
    """Forget a worker that has ended."""
    with store.writer.begin() as connection:
        connection.execute(text("DELETE FROM workers WHERE worker = :worker"), {"worker": worker})


def list_workers(store: Store, *, max_age: float = ALIVE_SECONDS) -> list[WorkerInfo]:
    """Return the workers that have reported themselves within `max_age` seconds."""
    with store.reader.connect() as connection:
        found = connection.execute(
            text(
                f"SELECT w.*, {store.now} - w.heartbeat AS age,"
                " (SELECT count(*) FROM shards s WHERE s.worker = w.worker AND s.state = 'running') AS shards"
                f" FROM workers w WHERE {store.now} - w.heartbeat <= :age ORDER BY w.worker"
            ),
            {"age": max_age},
        ).all()
    return [
        WorkerInfo(
            worker=item.worker,
            device=item.device,
            model=item.model,
            adapter=item.adapter,
            weights=item.weights,
            tokens_per_second=item.tokens_per_second,
            heartbeat_age=float(item.age),
            shards=item.shards,
        )
        for item in found
    ]
