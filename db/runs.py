"""Runs whose results are not written yet: which job a dataset, a spec and an output belong to."""

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.transactions import reading, write


def remember_run(store: Store, key: str, job_id: str) -> None:
    """Note the job of a run; one that the key had before is forgotten.

    Args:
        key: of the dataset, the spec and the output, at most 64 characters.
    """

    def work(connection: Connection) -> None:
        connection.execute(text("DELETE FROM runs WHERE key = :key"), {"key": key})
        connection.execute(text("INSERT INTO runs (key, job_id) VALUES (:key, :job)"), {"key": key, "job": job_id})

    write(store, work)


def find_run(store: Store, key: str) -> str | None:
    """Return the job of a run that was not written to its end, or None; a cancelled one is none."""
    with reading(store) as connection:
        found: str | None = connection.execute(
            text(
                "SELECT j.id FROM runs r JOIN jobs j ON j.id = r.job_id"
                " WHERE r.key = :key AND j.state NOT IN ('submitting', 'cancelled')"
            ),
            {"key": key},
        ).scalar()
    return found


def forget_run(store: Store, job_id: str) -> None:
    """Note that a job's results are written: the same call makes a new job."""

    def work(connection: Connection) -> None:
        connection.execute(text("DELETE FROM runs WHERE job_id = :job"), {"job": job_id})

    write(store, work)
