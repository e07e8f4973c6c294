"""Storing finished attempts under a lease: all of a batch or nothing, each row once."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, select, text

from endmark.db.attempt_rows import AlreadyStored, insert_outcomes
from endmark.db.connection import Store
from endmark.db.job_states import HELD, named, row_lock
from endmark.db.schema import COUNTERS
from endmark.db.schema import attempts as attempts_table
from endmark.db.transactions import write
from endmark.jobs.errors import LeaseLost
from endmark.jobs.vocabulary import Lease, Outcome, Part, ShardKey

_COUNTED = ", ".join(f"{name} = {name} + :{name}" for name in COUNTERS)


def commit(store: Store, lease: Lease, outcomes: Sequence[Outcome]) -> None:
    """Store rows' attempts and count them, in one transaction. What is stored already is not counted again.

    Raises:
        LeaseLost: the shard is another worker's now, or its job was cancelled or paused; nothing was written.
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> None:
        count_outcomes(store, connection, lease.key, outcomes, lease=lease)
        insert_outcomes(store, connection, lease.key.job_id, outcomes)

    def work_again(connection: Connection) -> None:
        _hold(store, connection, lease)
        stored = _stored(connection, lease.key.job_id, outcomes)
        fresh = [item for item in outcomes if (item.attempts[-1].row, item.round) not in stored]
        if fresh:
            count_outcomes(store, connection, lease.key, fresh)
            insert_outcomes(store, connection, lease.key.job_id, fresh, anew=True)

    try:
        write(store, work)
    except AlreadyStored:  # after a commit whose reply was lost the same outcomes come again
        write(store, work_again)


def _hold(store: Store, connection: Connection, lease: Lease) -> None:
    """Lock the shard's row for the rest of the transaction, if the lease is still good."""
    key = lease.key
    held = connection.execute(text(f"SELECT 1 FROM shards WHERE {HELD}{row_lock(store)}"), named(lease))
    if held.scalar() is None:
        raise _lost(key)


def _lost(key: ShardKey) -> LeaseLost:
    """Return the error that a lease is good no longer."""
    return LeaseLost(f"job {key.job_id} shard {key.shard} is held by another worker, or has been stopped")


def count_outcomes(
    store: Store, connection: Connection, key: ShardKey, outcomes: Sequence[Outcome], *, lease: Lease | None = None
) -> None:
    """Add outcomes to their shard's counters, which locks the shard for the rest of the transaction.

    Args:
        lease: under which that is done; None if the caller holds the shard already.

    Raises:
        LeaseLost: the lease is good no longer.
    """
    counts: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
    for outcome in outcomes:
        attempt = outcome.attempts[-1]
        end = attempt.verdict.end
        assert end.counter is not None  # a worker stores no cancelled row
        counts["succeeded"] += end.reason.has_answer
        counts[end.counter] += 1
        counts["complete"] += attempt.complete
        counts["shaped"] += attempt.valid is not None
        counts["valid"] += bool(attempt.valid)
        counts["prompt_tokens"] += attempt.prompt_tokens
        counts["completion_tokens"] += attempt.completion_tokens
        counts["in_reasoning"] += attempt.ended_in is Part.REASONING
        counts["reasoning_tokens"] += attempt.reasoning_tokens
        counts["cached_tokens"] += attempt.cached_tokens
        counts["deduplicated"] += attempt.same_as is not None
    held = "job_id = :job AND shard = :shard" if lease is None else HELD
    done = connection.execute(
        text(f"UPDATE shards SET updated_at = {store.now}, {_COUNTED} WHERE {held}"),
        {**counts, **({"job": key.job_id, "shard": key.shard} if lease is None else named(lease))},
    )
    if lease is not None and done.rowcount != 1:
        raise _lost(key)


def _stored(connection: Connection, job_id: str, outcomes: Sequence[Outcome]) -> set[tuple[int, int]]:
    """Return (row, round) of the outcomes that are stored already."""
    table = attempts_table.c
    found = connection.execute(
        select(table.row, table.round).where(
            table.job_id == job_id, table.final, table.row.in_([item.attempts[-1].row for item in outcomes])
        )
    )
    return {(item.row, item.round) for item in found}
