"""Leases on shards: claim, heartbeat, release, finish.

A claim that neither finishes nor releases its shard has died. A shard some of whose claims died is a suspect: it
may hold a row that kills workers, and is given only to a worker that holds nothing else, so that no other shard
dies with it again.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.job_states import (
    HELD,
    LEASE_SECONDS,
    close_if_done,
    expired,
    lock_job,
    lock_job_if_any,
    named,
    row_lock,
)
from endmark.db.reaper import SUSPECT_AFTER, reap, requeue_expired
from endmark.db.rows import UNFINISHED
from endmark.db.transactions import write
from endmark.jobs.vocabulary import JobState, Lease, ShardKey

__all__ = ["LEASE_SECONDS", "claim", "finish", "heartbeat", "reap", "release"]
_GIVEN_BACK = text(
    "UPDATE shards SET state = 'queued', fence = fence + 1, attempts = attempts - 1, lease_until = NULL"
    f" WHERE {HELD}"
)
# Of a job `j`: the condition of the index `jobs_in_turn`.
_IN_TURN = "j.queued_shards > 0 AND j.state IN ('queued', 'running') AND j.model = :model AND j.adapter"


def claim(
    store: Store, *, worker: str, model: str, adapter: str | None, lease_seconds: float = LEASE_SECONDS
) -> Lease | None:
    """Take the fairest due shard of a model; None if none is due for this worker.

    Of the jobs with a queued shard the highest priority goes first, then the one with the fewest running shards,
    then the oldest. If that job has only suspects left, a worker that holds other shards gets nothing until it
    is done with them. Shards whose lease is over are put back by the reaper, or here if nothing else is due.

    Raises:
        StoreError: the database cannot be used.
    """
    queue = {"model": model, "adapter": adapter}

    def take() -> Lease | None:
        return _claim(store, worker, queue, lease_seconds)

    lease = take()
    return take() if lease is None and requeue_expired(store, wait=True) else lease


def _claim(store: Store, worker: str, queue: Mapping[str, str | None], lease_seconds: float) -> Lease | None:
    """Take the fairest queued shard."""
    passed: list[str] = []  # jobs at all of whose due shards others are just now

    def work(connection: Connection, *, wait: bool) -> Lease | str | None:
        """Return a lease, or the job that is passed over."""
        held, deaths = _held_by(store, connection, worker)
        if deaths >= SUSPECT_AFTER:
            return None
        job = _fairest_job(store, connection, queue, () if wait else passed)
        if job is None:
            return None
        job_id, state = job
        found = _first_due(store, connection, job_id, wait=wait)
        if found is None:
            return None if wait else job_id
        shard, deaths = found
        if held and deaths >= SUSPECT_AFTER:
            return None
        if state == JobState.QUEUED:
            _begin(store, connection, job_id)
        return _take(store, connection, ShardKey(job_id, shard), worker, lease_seconds)

    while isinstance(taken := write(store, lambda connection: work(connection, wait=False)), str):
        passed.append(taken)
    if taken is None and passed:  # others may be about to give back what they are at
        taken = write(store, lambda connection: work(connection, wait=True))
    return taken if isinstance(taken, Lease) else None


def heartbeat(store: Store, leases: Sequence[Lease], *, lease_seconds: float = LEASE_SECONDS) -> set[Lease]:
    """Prolong the leases; return those that are no longer good.

    Raises:
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> set[Lease]:
        lost: set[Lease] = set()
        for lease in sorted(leases, key=lambda lease: (lease.key.job_id, lease.key.shard)):
            done = connection.execute(
                text(
                    f"UPDATE shards SET lease_until = {store.now} + :seconds, lease_seconds = :seconds"
                    f" WHERE {HELD}"
                ),
                {"seconds": lease_seconds, **named(lease)},
            )
            if done.rowcount != 1:
                lost.add(lease)
        return lost

    return write(store, work) if leases else set()


def release(store: Store, lease: Lease) -> None:
    """Give a shard back unfinished; its claim does not count as one that died.

    Raises:
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> None:
        lock_job_if_any(store, connection, lease.key.job_id)  # first, as all do that change a shard's state
        connection.execute(_GIVEN_BACK, named(lease))

    write(store, work)


def finish(store: Store, lease: Lease) -> bool:
    """Close a shard all of whose rows have a result; close the job with its last shard.

    Returns:
        False if rows have no result after all, as in a database that has lost its last second: the shard is given
        back then.

    Raises:
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> bool:
        state = lock_job(store, connection, lease.key.job_id)
        if _lacks_results(connection, lease):
            connection.execute(_GIVEN_BACK, named(lease))
            return False
        done = connection.execute(
            text(f"UPDATE shards SET state = 'done', lease_until = NULL WHERE {HELD}"), named(lease)
        )
        if done.rowcount == 1 and not state.is_final:
            close_if_done(store, connection, lease.key.job_id)
        return True

    return write(store, work)


def _lacks_results(connection: Connection, lease: Lease) -> bool:
    """Whether rows of a shard have no result; they are looked at only where its counters do not say it already."""
    lacks = connection.execute(
        text(f"SELECT succeeded + failed < end_row - first_row FROM shards WHERE {HELD}"), named(lease)
    ).scalar()
    if not lacks:
        return False
    left = {"job": lease.key.job_id, "first": lease.first_row, "end": lease.end_row}
    return connection.execute(text(f"{UNFINISHED} LIMIT 1"), left).first() is not None


def _held_by(store: Store, connection: Connection, worker: str) -> tuple[int, int]:
    """Return how many shards a worker holds, and the most deaths that one of them has seen."""
    found = connection.execute(
        text(
            "SELECT count(*), coalesce(max(s.attempts), 1) - 1 FROM shards s"
            f" WHERE s.state = 'running' AND s.worker = :worker AND NOT {expired(store, 's')}"
        ),
        {"worker": worker},
    ).one()
    return found[0], found[1]


def _fairest_job(
    store: Store, connection: Connection, queue: Mapping[str, str | None], passed: Sequence[str]
) -> tuple[str, str] | None:
    """Return the job whose turn it is, locked, and its state; none of those that were passed over.

    Jobs of one priority that others are claiming from just now are passed over while there is another: many
    workers that begin at once do not all wait for one job. A lower priority never profits from that.
    """
    others = {f"passed_{index}": job_id for index, job_id in enumerate(passed)}
    waits = f"{_IN_TURN} {'IS NULL' if queue['adapter'] is None else '= :adapter'}"
    waits += f" AND j.id NOT IN ({', '.join(':' + name for name in others)})" if others else ""
    # By `adapter` too, as the index is: that all are null Postgres does not take for an order.
    highest = f"SELECT j.priority FROM jobs j WHERE {waits} ORDER BY j.adapter DESC, j.priority DESC LIMIT 1"
    first = (
        f"SELECT j.id, j.state FROM jobs j WHERE {waits} AND j.priority = ({highest})"
        " ORDER BY j.adapter, j.running_shards, j.created_at, j.id LIMIT 1"
    )
    values: dict[str, object] = {**queue, **others}
    skip = True
    while True:  # where whoever was waited for took the last shard of a priority, another's turn may have come
        found = connection.execute(text(first + row_lock(store, of="j", skip=skip)), values).one_or_none()
        if found is not None:
            return found.id, found.state
        if skip and connection.execute(text(highest), values).scalar() is None:
            return None
        skip = not skip


def _first_due(store: Store, connection: Connection, job_id: str, *, wait: bool = False) -> tuple[int, int] | None:
    """Return the first queued shard of a job, locked; and how many of its claims have died.

    The first that is no suspect is found by an index, however many there are. Where there is none, the few
    suspects that are left are sorted: those come first that were tried longest ago: of two halves the one that
    has just killed its worker waits for the other, so that a worker finishes rows between two deaths of one row.

    Args:
        wait: for who holds the shard's row now, instead of passing over it.
    """
    lock = f" LIMIT 1{row_lock(store, skip=not wait)}"
    for condition, order in (
        (f"s.attempts < {SUSPECT_AFTER}", "s.first_row"),
        (f"s.attempts >= {SUSPECT_AFTER}", "s.fence, s.first_row"),
    ):
        statement = (
            "SELECT s.shard, s.attempts FROM shards s WHERE s.job_id = :job AND s.state = 'queued'"
            f" AND {condition} ORDER BY {order}"
        )
        found = connection.execute(text(statement + lock), {"job": job_id}).one_or_none()
        if found is not None:
            return found.shard, found.attempts
    return None


def _begin(store: Store, connection: Connection, job_id: str) -> None:
    """Let a job run whose first shard is claimed."""
    connection.execute(
        text(
            f"UPDATE jobs SET state = 'running', started_at = coalesce(started_at, {store.now})"
            " WHERE id = :job AND state = 'queued'"
        ),
        {"job": job_id},
    )


def _take(store: Store, connection: Connection, key: ShardKey, worker: str, seconds: float) -> Lease:
    """Put a locked shard under a new fence."""
    found = connection.execute(
        text(
            "UPDATE shards SET state = 'running', fence = fence + 1, attempts = attempts + 1, worker = :worker,"
            f" lease_until = {store.now} + :seconds, lease_seconds = :seconds"
            " WHERE job_id = :job AND shard = :shard"
            " RETURNING fence, first_row, end_row, attempts"
        ),
        {"job": key.job_id, "shard": key.shard, "worker": worker, "seconds": seconds},
    ).one()
    return Lease(key, found.fence, found.first_row, found.end_row, found.attempts, worker)
