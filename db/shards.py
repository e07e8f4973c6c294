"""Leases on shards: claim, heartbeat, release, finish, and what the reaper does about those left behind."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from db.connection import Store
from jobs.vocabulary import Lease, ShardKey

LEASE_SECONDS = 90.0


def claim(
    store: Store, *, worker: str, model: str, adapter: str | None, lease_seconds: float = LEASE_SECONDS
) -> Lease | None:
    """Take the fairest due shard of a model; None if none is due.

    Of the jobs with a due shard the highest priority goes first, then the one with the fewest running shards,
    then the oldest.
    """
    due = f"(s.state = 'queued' OR (s.state = 'running' AND s.lease_until < {store.now}))"
    skip = " FOR UPDATE SKIP LOCKED" if store.dialect == "postgresql" else ""
    statement = (
        f"UPDATE shards SET state = 'running', fence = fence + 1, attempts = attempts + 1, worker = :worker,"
        f" lease_until = {store.now} + :seconds WHERE (job_id, shard) IN ("
        "  SELECT s.job_id, s.shard FROM shards s WHERE s.job_id = ("
        "    SELECT j.id FROM jobs j WHERE j.state IN ('queued', 'running') AND j.model = :model"
        "    AND coalesce(j.adapter, '') = :adapter"
        f"   AND EXISTS (SELECT 1 FROM shards s WHERE s.job_id = j.id AND {due})"
        "    ORDER BY j.priority DESC,"
        "      (SELECT count(*) FROM shards o WHERE o.job_id = j.id AND o.state = 'running'), j.created_at"
        f"   LIMIT 1) AND {due} ORDER BY s.shard LIMIT 1{skip})"
        " RETURNING job_id, shard, fence, first_row, end_row, attempts"
    )
    with store.writer.begin() as connection:
        found = connection.execute(
            text(statement),
            {"worker": worker, "seconds": lease_seconds, "model": model, "adapter": adapter or ""},
        ).one_or_none()
        if found is None:
            return None
        connection.execute(
            text(
                f"UPDATE jobs SET state = 'running', started_at = coalesce(started_at, {store.now})"
                " WHERE id = :job AND state = 'queued'"
            ),
            {"job": found.job_id},
        )
    return Lease(ShardKey(found.job_id, found.shard), found.fence, found.first_row, found.end_row, found.attempts)


def heartbeat(store: Store, leases: Sequence[Lease], *, lease_seconds: float = LEASE_SECONDS) -> set[ShardKey]:
    """Prolong the leases; return the shards that are no longer held."""
    lost: set[ShardKey] = set()
    with store.writer.begin() as connection:
        for lease in leases:
            done = connection.execute(
                text(
                    f"UPDATE shards SET lease_until = {store.now} + :seconds"
                    " WHERE job_id = :job AND shard = :shard AND fence = :fence AND state = 'running'"
                ),
                {"seconds": lease_seconds, **_named(lease)},
            )
            if done.rowcount != 1:
                lost.add(lease.key)
    return lost


def release(store: Store, lease: Lease) -> None:
    """Give a shard back unfinished; its claim does not count as one that died."""
    with store.writer.begin() as connection:
        connection.execute(
            text(
                "UPDATE shards SET state = 'queued', fence = fence + 1, attempts = attempts - 1,"
                " lease_until = NULL, sent_at = 0"
                " WHERE job_id = :job AND shard = :shard AND fence = :fence AND state = 'running'"
            ),
            _named(lease),
        )


def finish(store: Store, lease: Lease) -> None:
    """Close a shard all of whose rows have a result; close the job with its last shard."""
    with store.writer.begin() as connection:
        done = connection.execute(
            text(
                "UPDATE shards SET state = 'done', lease_until = NULL"
                " WHERE job_id = :job AND shard = :shard AND fence = :fence AND state = 'running'"
            ),
            _named(lease),
        )
        if done.rowcount == 1:
            connection.execute(
                text(
                    "UPDATE jobs SET state = CASE WHEN (SELECT sum(failed) FROM shards WHERE job_id = :job) > 0"
                    f" THEN 'completed_with_errors' ELSE 'completed' END, finished_at = {store.now}"
                    " WHERE id = :job AND state IN ('queued', 'running')"
                    " AND NOT EXISTS (SELECT 1 FROM shards WHERE job_id = :job AND state <> 'done')"
                ),
                {"job": lease.key.job_id},
            )


def reap(store: Store, *, resend_after: float = 60.0, window: int = 64) -> list[tuple[ShardKey, str, str | None]]:
    """Put expired leases back, and return queued shards whose message is old, to be sent again.

    Args:
        resend_after: seconds after which a message counts as lost.
        window: the most shards to return.

    Returns:
        Each shard with its job's model and adapter; they count as sent now.
    """
    with store.writer.begin() as connection:
        connection.execute(
            text(
                "UPDATE shards SET state = 'queued', lease_until = NULL, sent_at = 0"
                f" WHERE state = 'running' AND lease_until < {store.now}"
            )
        )
        found = connection.execute(
            text(
                "SELECT s.job_id, s.shard, j.model, j.adapter FROM shards s JOIN jobs j ON j.id = s.job_id"
                f" WHERE s.state = 'queued' AND s.sent_at < {store.now} - :age"
                " AND j.state IN ('queued', 'running')"
                " ORDER BY j.priority DESC, j.created_at, s.shard LIMIT :window"
            ),
            {"age": resend_after, "window": window},
        ).all()
        keys = [ShardKey(item.job_id, item.shard) for item in found]
        _mark(store, connection, keys)
    return [(key, item.model, item.adapter) for key, item in zip(keys, found, strict=True)]


def mark_sent(store: Store, keys: Sequence[ShardKey]) -> None:
    """Note that messages for these shards have just been sent."""
    with store.writer.begin() as connection:
        _mark(store, connection, keys)


def _mark(store: Store, connection: Connection, keys: Sequence[ShardKey]) -> None:
    """Set when the shards' messages were sent."""
    if keys:
        connection.execute(
            text(f"UPDATE shards SET sent_at = {store.now} WHERE job_id = :job AND shard = :shard"),
            [{"job": key.job_id, "shard": key.shard} for key in keys],
        )


def _named(lease: Lease) -> dict[str, object]:
    """Return what names a lease in a statement."""
    return {"job": lease.key.job_id, "shard": lease.key.shard, "fence": lease.fence}
