"""A shard's counters made again from its attempts, after rows were moved or asked again."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from endmark.jobs.vocabulary import Ending

COMPLETE = (  # of an attempt `a`; what `Ending.is_complete` says, in SQL
    "a.finish_reason <> 'error' AND (a.ending IN ("
    + ", ".join(f"'{ending}'" for ending in Ending if ending.is_whole)
    + f") OR (a.ending = '{Ending.PHRASE}' AND (a.finish_reason = 'stop_sequence' OR a.eos_source = 'natural')))"
)
_SUMS = {
    "succeeded": "a.finish_reason <> 'error'",
    "failed": "a.finish_reason = 'error'",
    "eos_natural": "a.finish_reason = 'eos' AND coalesce(a.eos_source, 'natural') = 'natural'",
    "eos_boosted": "a.finish_reason = 'eos' AND coalesce(a.eos_source, 'natural') = 'boosted'",
    "eos_forced": "a.finish_reason = 'eos' AND coalesce(a.eos_source, 'natural') = 'forced'",
    "stop_sequence": "a.finish_reason = 'stop_sequence'",
    "repetition": "a.finish_reason = 'repetition'",
    "length": "a.finish_reason = 'length'",
    "complete": COMPLETE,
}
_TOKENS = ("prompt_tokens", "completion_tokens")
_SELECTED = [f"coalesce(sum(CASE WHEN {what} THEN 1 ELSE 0 END), 0)" for what in _SUMS.values()]
_SELECTED += [f"coalesce(sum(a.{name}), 0)" for name in _TOKENS]
_RECOUNT = text(
    f"UPDATE shards SET ({', '.join((*_SUMS, *_TOKENS))}) = (SELECT {', '.join(_SELECTED)} FROM rows r"
    " JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row AND a.round = r.round AND a.final"
    " WHERE r.job_id = shards.job_id AND r.row >= shards.first_row AND r.row < shards.end_row)"
    " WHERE job_id = :job AND shard = :shard"
)


def recount(connection: Connection, job_id: str, shards: Sequence[int]) -> None:
    """Set the counters of these shards of a job."""
    if shards:
        connection.execute(_RECOUNT, [{"job": job_id, "shard": shard} for shard in shards])
