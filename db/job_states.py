"""A job's state: looked up under a lock, and closed with its last shard.

On Postgres whoever changes a job or closes a shard holds the job's row first and its shards' rows second, so that
nobody waits in a circle and of two last shards that close at once one sees the other.
"""

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.jobs.errors import JobNotFound
from endmark.jobs.vocabulary import JobState, Lease

LEASE_SECONDS = 90.0
FINAL = ", ".join(f"'{state.value}'" for state in JobState if state.is_final)  # of SQL's `IN (…)`
# Of the shard of a lease that is still good; see `named`.
HELD = "job_id = :job AND shard = :shard AND fence = :fence AND worker = :worker AND state = 'running'"
_CLOCK_SLACK = 5.0  # seconds by which a clock may be corrected
_OPEN = "SELECT 1 FROM shards WHERE job_id = :job AND state IN ('queued', 'running') LIMIT 1"


def lock_job(store: Store, connection: Connection, job_id: str) -> JobState:
    """Return a job's state; it stays so until the transaction ends.

    Raises:
        JobNotFound: there is no such job.
    """
    state = lock_job_if_any(store, connection, job_id)
    if state is None:
        raise JobNotFound(job_id)
    return state


def lock_job_if_any(store: Store, connection: Connection, job_id: str) -> JobState | None:
    """Return a job's state, as `lock_job` does; None if it has been deleted."""
    statement = "SELECT state FROM jobs WHERE id = :job AND state <> 'submitting'" + row_lock(store)
    found = connection.execute(text(statement), {"job": job_id}).scalar()
    return None if found is None else JobState(found)


def named(lease: Lease) -> dict[str, object]:
    """Return what names a lease in a statement with `HELD`."""
    return {"job": lease.key.job_id, "shard": lease.key.shard, "fence": lease.fence, "worker": lease.worker}


def row_lock(store: Store, *, of: str | None = None, skip: bool = False) -> str:
    """Return the clause that locks the rows of a SELECT; SQLite has one writer and needs none.

    Args:
        of: the table of a join whose rows are locked.
        skip: pass over rows that others hold.
    """
    if store.dialect == "sqlite":
        return ""
    return " FOR NO KEY UPDATE" + (f" OF {of}" if of else "") + (" SKIP LOCKED" if skip else "")


def expired(store: Store, table: str) -> str:
    """Return the condition that the lease of a running shard has run out.

    One that ends later than a lease from now has run out too: the clock was put back since, by an hour say, and a
    worker that lives prolongs its leases sooner than that.
    """
    longest = f"coalesce({table}.lease_seconds, {LEASE_SECONDS}) + {_CLOCK_SLACK}"
    return f"({table}.lease_until < {store.now} OR {table}.lease_until > {store.now} + {longest})"


def set_state(
    store: Store, connection: Connection, job_id: str, state: JobState, *, error: str | None = None
) -> None:
    """Set a job's state, when it ended, and why it has failed as a whole."""
    finished = store.now if state.is_final else "NULL"
    connection.execute(
        text(f"UPDATE jobs SET state = :state, finished_at = {finished}, error = :error WHERE id = :job"),
        {"job": job_id, "state": state.value, "error": error},
    )


def close_if_done(store: Store, connection: Connection, job_id: str) -> None:
    """Give a job whose last shard is done its final state. The caller holds the job's lock."""
    if connection.execute(text(_OPEN), {"job": job_id}).scalar() is not None:
        return  # nearly always, and known without a look at every shard
    sums = connection.execute(
        text(
            "SELECT coalesce(sum(failed), 0) AS failed,"
            " coalesce(sum(end_row - first_row - succeeded - failed), 0) AS without"
            " FROM shards WHERE job_id = :job"
        ),
        {"job": job_id},
    ).one()
    if sums.without:  # cancelled before, and only some rows were asked again
        state = JobState.CANCELLED
    else:
        state = JobState.COMPLETED_WITH_ERRORS if sums.failed else JobState.COMPLETED
    set_state(store, connection, job_id, state)
