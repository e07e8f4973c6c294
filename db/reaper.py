"""What the reaper does about work that was left behind: expired leases, and rows that kill workers."""

from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from endmark.db.attempt_rows import insert_outcomes
from endmark.db.attempts import count_outcomes
from endmark.db.connection import Store
from endmark.db.counting import recount
from endmark.db.deletion import discard_abandoned
from endmark.db.job_states import close_if_done, expired, lock_job, lock_job_if_any, row_lock
from endmark.db.rows import UNFINISHED
from endmark.db.transactions import reading, write
from endmark.db.workers import forget_silent_workers
from endmark.jobs.vocabulary import Attempt, FinishReason, Outcome, ShardKey, Verdict

SUSPECT_AFTER = 2  # claims that died, after which a shard is run alone
SPLIT_AFTER = 3  # claims that died, after which it is halved
_LONE_DEATHS = 3  # claims of one row alone that died, after which the row has failed


def reap(store: Store) -> None:
    """Put expired leases back, halve shards that kill workers, forget what was left behind.

    Raises:
        StoreError: the database cannot be used.
    """
    requeue_expired(store)
    with reading(store) as connection:
        deadly = connection.execute(
            text(f"SELECT s.job_id, s.shard FROM shards s WHERE {_deadly(store)} ORDER BY s.job_id, s.shard")
        ).all()
    for job_id, shard in deadly:
        key = ShardKey(job_id, shard)
        write(store, lambda connection, key=key: _narrow(store, connection, key))  # type: ignore[misc]
    discard_abandoned(store)
    forget_silent_workers(store)


def requeue_expired(store: Store, *, wait: bool = False) -> int:
    """Put shards back whose worker has not been heard of; return how many.

    Args:
        wait: for who is at such a shard just now, instead of passing over it.

    Raises:
        StoreError: the database cannot be used.
    """
    over = f"s.state = 'running' AND {expired(store, 's')} AND s.attempts < {SPLIT_AFTER}"
    with reading(store) as connection:
        jobs = connection.execute(text(f"SELECT DISTINCT s.job_id FROM shards s WHERE {over}")).scalars().all()
    statement = text(
        "UPDATE shards SET state = 'queued', lease_until = NULL WHERE job_id = :job AND shard IN"
        f" (SELECT s.shard FROM shards s WHERE s.job_id = :job AND {over}{row_lock(store, skip=not wait)})"
    )

    def work(connection: Connection, job_id: str) -> int:
        lock_job_if_any(store, connection, job_id)
        return connection.execute(statement, {"job": job_id}).rowcount

    # A transaction a job: whoever locks several may wait for ever.
    return sum(write(store, partial(work, job_id=job_id)) for job_id in jobs)


def _deadly(store: Store) -> str:
    """Return the condition of a shard `s` that has killed its workers."""
    return f"s.state = 'running' AND {expired(store, 's')} AND s.attempts >= {SPLIT_AFTER}"


def _narrow(store: Store, connection: Connection, key: ShardKey) -> None:
    """Halve a shard that has killed its workers; if one row is left alone in it, let that row fail in the end."""
    lock_job(store, connection, key.job_id)
    named = {"job": key.job_id, "shard": key.shard}
    found = connection.execute(
        text(
            f"SELECT s.* FROM shards s WHERE s.job_id = :job AND s.shard = :shard AND {_deadly(store)}"
            f"{row_lock(store, skip=True)}"
        ),
        named,
    ).one_or_none()
    if found is None:
        return  # another reaper was faster, or its worker lives after all
    left = connection.execute(
        text(UNFINISHED), {"job": key.job_id, "first": found.first_row, "end": found.end_row}
    ).all()
    state, attempts = "queued", found.attempts
    if len(left) > 1:
        _split(connection, found, left[len(left) // 2].row)
        attempts = SUSPECT_AFTER
    elif left and attempts >= SUSPECT_AFTER + _LONE_DEATHS:
        _fail_row(store, connection, found, left[0])
        state = "done"
    elif not left:
        attempts = 0  # they died between its last row and its end
    connection.execute(
        text(
            "UPDATE shards SET state = :state, attempts = :attempts, lease_until = NULL,"
            " fence = fence + 1 WHERE job_id = :job AND shard = :shard"
        ),
        {**named, "state": state, "attempts": attempts},
    )
    if state == "done":
        close_if_done(store, connection, key.job_id)


def _split(connection: Connection, found: Any, middle: int) -> None:  # noqa: ANN401 - a row of `shards`
    """Cut a shard in two before a row; both are suspects."""
    connection.execute(
        text(
            "INSERT INTO shards (job_id, shard, first_row, end_row, state, attempts, fence)"
            " SELECT job_id, max(shard) + 1, :first, :end, 'queued', :attempts, :fence FROM shards"
            " WHERE job_id = :job GROUP BY job_id"
        ),
        {
            "job": found.job_id,
            "first": middle,
            "end": found.end_row,
            "attempts": SUSPECT_AFTER,
            "fence": found.fence + 1,  # as the other half will have: neither was tried before the other
        },
    )
    connection.execute(
        text("UPDATE shards SET end_row = :middle WHERE job_id = :job AND shard = :shard"),
        {"job": found.job_id, "shard": found.shard, "middle": middle},
    )
    halves = connection.execute(
        text("SELECT shard FROM shards WHERE job_id = :job AND (shard = :shard OR first_row = :middle)"),
        {"job": found.job_id, "shard": found.shard, "middle": middle},
    )
    recount(connection, found.job_id, list(halves.scalars()))


def _fail_row(store: Store, connection: Connection, found: Any, row: Any) -> None:  # noqa: ANN401 - rows of `shards` and `UNFINISHED`
    """Store that a row has failed because no worker survives it."""
    error = f"the worker died on this row {_LONE_DEATHS} times, while it ran no other"
    verdict = Verdict(FinishReason.ERROR, error=error)
    attempt = Attempt(row.row, row.attempts + 1, "", verdict, prompt_tokens=0, completion_tokens=0)
    outcomes = [Outcome(row.round, (attempt,))]
    count_outcomes(store, connection, ShardKey(found.job_id, found.shard), outcomes)
    insert_outcomes(store, connection, found.job_id, outcomes, anew=True)
