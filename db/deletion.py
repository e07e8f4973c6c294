"""Deleting jobs, a few thousand rows at a time, and those whose storing was broken off.

A job that goes has the state of one that is being stored, so nobody sees it from the first moment on; where its
deletion is broken off, the reaper goes on with it as it does with a half-stored one.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.job_states import FINAL, lock_job
from endmark.db.served_batches import OPEN
from endmark.db.transactions import reading, write
from endmark.jobs.errors import JobStateError
from endmark.jobs.vocabulary import JobState

ABANDONED_AFTER = 24 * 3600.0  # seconds without a new row, after which whoever stored the job is gone
_DELETED_AT_ONCE = 5000  # rows; more would keep other writers waiting
_IN_BATCH = f"SELECT 1 FROM batches b WHERE b.job_id = jobs.id AND {OPEN}"  # whose files are not written yet
_GIVEN_UP = "state = 'submitting', updated_at = 0"


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended, as `endmark prune` names it."""

    id: str
    name: str
    state: JobState
    total: int  # rows
    age: float  # seconds since it ended


def delete_job(store: Store, job_id: str) -> None:
    """Delete a job that has ended, with its rows and results.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it has not ended, or the files of its batch are not written yet.
        StoreError: the database cannot be used; what was begun is gone on with later.
    """

    def hide(connection: Connection) -> None:
        _expect_deletable(connection, job_id, lock_job(store, connection, job_id))
        connection.execute(text(f"UPDATE jobs SET {_GIVEN_UP} WHERE id = :job"), {"job": job_id})

    write(store, hide, repeatable=False)
    _delete_all(store, job_id)


def check_deletable(store: Store, job_id: str) -> None:
    """Refuse a job that cannot be deleted now.

    Raises:
        JobNotFound, JobStateError: as `delete_job`.
    """
    write(store, lambda connection: _expect_deletable(connection, job_id, lock_job(store, connection, job_id)))


def ended_before(store: Store, seconds: float) -> list[EndedJob]:
    """Return the jobs that ended at least so many seconds ago and may be deleted, the oldest first.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text(
                f"SELECT id, name, state, total, {store.now} - finished_at AS age FROM jobs"
                f" WHERE state IN ({FINAL}) AND finished_at <= {store.now} - :seconds AND NOT EXISTS ({_IN_BATCH})"
                " ORDER BY finished_at, id"
            ),
            {"seconds": seconds},
        ).all()
    return [EndedJob(item.id, item.name, JobState(item.state), item.total, item.age) for item in found]


def discard_submission(store: Store, job_id: str) -> None:
    """Forget a job that was being stored, with its rows."""

    def give_up(connection: Connection) -> None:
        connection.execute(
            text(f"UPDATE jobs SET {_GIVEN_UP} WHERE id = :job AND state = 'submitting'"), {"job": job_id}
        )

    write(store, give_up)
    _delete_all(store, job_id)


def discard_abandoned(store: Store) -> None:
    """Delete some rows of a job whose storing or deletion was broken off; the job goes with the last of them."""
    with reading(store) as connection:
        found = connection.execute(
            text(
                "SELECT id FROM jobs WHERE state = 'submitting'"
                f" AND updated_at < {store.now} - :age ORDER BY updated_at LIMIT 1"
            ),
            {"age": ABANDONED_AFTER},
        ).scalar()
    if found is None:
        return

    def work(connection: Connection) -> None:
        # From here on whoever stored it is refused, should it still live.
        taken = connection.execute(
            text(
                f"UPDATE jobs SET {_GIVEN_UP} WHERE id = :job AND state = 'submitting'"
                f" AND updated_at < {store.now} - :age"
            ),
            {"job": found, "age": ABANDONED_AFTER},
        )
        if taken.rowcount:
            _delete_some(connection, found)

    write(store, work)


def _expect_deletable(connection: Connection, job_id: str, state: JobState) -> None:
    """Refuse a job that has not ended, or that the Batch API still has to write files of.

    Raises:
        JobStateError: it is such a job.
    """
    if not state.is_final:
        raise JobStateError(f"job `{job_id}` is {state}", hint=f"`endmark cancel {job_id}` ends it first")
    in_batch = connection.execute(
        text(f"SELECT 1 FROM jobs WHERE id = :job AND EXISTS ({_IN_BATCH})"), {"job": job_id}
    )
    if in_batch.scalar() is not None:
        raise JobStateError(
            f"job `{job_id}` belongs to a batch whose files are not written yet",
            hint="`endmark serve` writes them when it runs",
        )


def _delete_all(store: Store, job_id: str) -> None:
    """Delete a job that has been given up."""
    while write(store, lambda connection: _delete_some(connection, job_id)):
        pass


def _delete_some(connection: Connection, job_id: str) -> bool:
    """Delete some rows of a job that has been given up, or the job itself; return whether rows may be left."""
    values = {"job": job_id, "most": _DELETED_AT_ONCE}
    done = connection.execute(
        text(
            "DELETE FROM rows WHERE job_id = :job AND row IN"
            " (SELECT row FROM rows WHERE job_id = :job ORDER BY row LIMIT :most)"
            " AND EXISTS (SELECT 1 FROM jobs WHERE id = :job AND state = 'submitting')"
        ),
        values,
    )
    if done.rowcount == _DELETED_AT_ONCE:
        return True
    asked = "SELECT round, digest FROM askers WHERE job_id = :job LIMIT :most"
    done = connection.execute(
        text(f"DELETE FROM askers WHERE job_id = :job AND (round, digest) IN ({asked})"), values
    )
    if done.rowcount == _DELETED_AT_ONCE:
        return True
    connection.execute(text("DELETE FROM jobs WHERE id = :job AND state = 'submitting'"), values)
    return False
