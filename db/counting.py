"""A shard's counters made again from its attempts, after rows were moved or asked again."""

from collections.abc import Iterable

from sqlalchemy import Connection, text

_SUMS = {
    "succeeded": "a.finish_reason <> 'error'",
    "failed": "a.finish_reason = 'error'",
    "eos_natural": "a.eos_source = 'natural'",
    "eos_boosted": "a.eos_source = 'boosted'",
    "eos_forced": "a.eos_source = 'forced'",
    "stop_sequence": "a.finish_reason = 'stop_sequence'",
    "repetition": "a.finish_reason = 'repetition'",
    "length": "a.finish_reason = 'length'",
}


def recount(connection: Connection, job_id: str, shards: Iterable[int]) -> None:
    """Set the counters of these shards of a job."""
    sums = ", ".join(
        f"coalesce(sum(CASE WHEN {what} THEN 1 ELSE 0 END), 0) AS {name}" for name, what in _SUMS.items()
    )
    tokens = ", ".join(f"coalesce(sum(a.{name}), 0) AS {name}" for name in ("prompt_tokens", "completion_tokens"))
    for shard in shards:
        counted = connection.execute(
            text(
                f"SELECT {sums}, {tokens} FROM shards s"
                " JOIN rows r ON r.job_id = s.job_id AND r.row >= s.first_row AND r.row < s.end_row"
                " JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row AND a.round = r.round AND a.final"
                " WHERE s.job_id = :job AND s.shard = :shard"
            ),
            {"job": job_id, "shard": shard},
        ).one()
        values = dict(counted._mapping)
        changes = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(
            text(f"UPDATE shards SET {changes} WHERE job_id = :job AND shard = :shard"),
            {**values, "job": job_id, "shard": shard},
        )
