"""A shard's counters made again from its attempts, after rows were moved or asked again."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, text

from endmark.jobs.vocabulary import ENDS, End, Ending, EosSource, FinishReason, Part


def ended_so(end: End) -> str:
    """Return, in SQL, whether an attempt `a` ended so; an EOS of before its source was stored is natural."""
    same = f"a.finish_reason = '{end.reason}'"
    return f"({same} AND coalesce(a.eos_source, '{EosSource.NATURAL}') = '{end.source}')" if end.source else same


def any_of(conditions: Iterable[str]) -> str:
    """Return, in SQL, whether one of several holds."""
    return f"({' OR '.join(conditions)})"


def _in(column: str, values: Iterable[str]) -> str:
    """Return, in SQL, whether a column has one of some values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


ANSWERED = _in("a.finish_reason", (reason for reason in FinishReason if reason.has_answer))
_WHOLE = _in("a.ending", (ending for ending in Ending if ending.is_whole))
_BY_ITSELF = any_of(ended_so(end) for end in ENDS if end.by_itself)
# Of an attempt `a`; what `Ending.is_complete` says, or of one in a shape whether it is valid.
_ENDED = f"({_WHOLE} OR (a.ending = '{Ending.PHRASE}' AND {_BY_ITSELF}))"
COMPLETE = f"{ANSWERED} AND (a.valid OR (a.valid IS NULL AND {_ENDED}))"
_SUMS = {
    "succeeded": ANSWERED,
    **{end.counter: ended_so(end) for end in ENDS if end.counter},
    "complete": COMPLETE,
    "in_reasoning": f"a.ended_in = '{Part.REASONING}'",
    "shaped": "a.valid IS NOT NULL",
    "valid": "a.valid",
    "deduplicated": "a.same_as IS NOT NULL",
}
_TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
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
