"""Storing finished attempts under a lease: all of a batch or nothing, each row once."""

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select, text

from endmark.db.connection import Store
from endmark.db.job_states import HELD, named, row_lock
from endmark.db.schema import COUNTERS
from endmark.db.schema import attempts as attempts_table
from endmark.db.transactions import write
from endmark.jobs.errors import LeaseLost
from endmark.jobs.strict_json import strict_json
from endmark.jobs.vocabulary import Attempt, Lease, Outcome, Part, ShardKey

_NAMES = [column.name for column in attempts_table.columns]
_INTO = f"INSERT INTO attempts ({', '.join(_NAMES)})"
_INSERT = {
    "sqlite": f"{_INTO} VALUES ({', '.join(':' + name for name in _NAMES)})",
    # One statement and one value, however many rows: it takes two thirds of the time of one for each row.
    "postgresql": f"{_INTO} SELECT {', '.join(_NAMES)} FROM json_populate_recordset(NULL::attempts, :rows)",
}
_ONCE = " ON CONFLICT (job_id, row, attempt) DO NOTHING"
_ANEW = " ON CONFLICT (job_id, row, attempt) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _NAMES[3:]
)
_COUNTED = ", ".join(f"{name} = {name} + :{name}" for name in COUNTERS)


class _Stored(Exception):
    """Some of what is to be stored is stored already."""


def commit(store: Store, lease: Lease, outcomes: Sequence[Outcome]) -> None:
    """Store rows' attempts and count them, in one transaction. What is stored already is not counted again.

    Raises:
        LeaseLost: the shard is another worker's now, or its job was cancelled or paused; nothing was written.
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> None:
        count_outcomes(store, connection, lease.key, outcomes, lease=lease)
        stored = insert_outcomes(store, connection, lease.key.job_id, outcomes)
        if stored < sum(len(item.attempts) for item in outcomes):
            raise _Stored

    def work_again(connection: Connection) -> None:
        _hold(store, connection, lease)
        stored = _stored(connection, lease.key.job_id, outcomes)
        fresh = [item for item in outcomes if (item.attempts[-1].row, item.round) not in stored]
        if fresh:
            count_outcomes(store, connection, lease.key, fresh)
            insert_outcomes(store, connection, lease.key.job_id, fresh, anew=True)

    try:
        write(store, work)
    except _Stored:  # after a commit whose reply was lost the same outcomes come again
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


def insert_outcomes(
    store: Store, connection: Connection, job_id: str, outcomes: Sequence[Outcome], *, anew: bool = False
) -> int:
    """Store the attempts of outcomes, the last of each as final; return how many attempts were stored.

    Args:
        anew: in the place of attempts of the same numbers, which otherwise stay.
    """
    values = [
        _values(job_id, outcome.round, attempt, final=attempt is outcome.attempts[-1])
        for outcome in outcomes
        for attempt in outcome.attempts
    ]
    if not values:
        return 0
    statement = text(_INSERT[store.dialect] + (_ANEW if anew else _ONCE))
    if store.dialect == "sqlite":
        return connection.execute(statement, values).rowcount
    for item in values:
        if item["eos_probs"] is not None:
            item["eos_probs"] = f"\\x{item['eos_probs'].hex()}"  # bytes as Postgres reads them from text
    return connection.execute(statement, {"rows": strict_json(values)}).rowcount


def _stored(connection: Connection, job_id: str, outcomes: Sequence[Outcome]) -> set[tuple[int, int]]:
    """Return (row, round) of the outcomes that are stored already."""
    table = attempts_table.c
    found = connection.execute(
        select(table.row, table.round).where(
            table.job_id == job_id, table.final, table.row.in_([item.attempts[-1].row for item in outcomes])
        )
    )
    return {(item.row, item.round) for item in found}


def _values(job_id: str, number: int, attempt: Attempt, *, final: bool) -> dict[str, Any]:
    """Return an attempt as a row of its table."""
    verdict, trace = attempt.verdict, attempt.trace
    return {
        "job_id": job_id,
        "row": attempt.row,
        "attempt": attempt.attempt,
        "round": number,
        "final": final,
        "text": _storable(attempt.text),
        "finish_reason": verdict.finish_reason.value,
        "eos_source": verdict.eos_source.value if verdict.eos_source else None,
        "stop_sequence": _storable(verdict.stop_sequence) if verdict.stop_sequence is not None else None,
        "error": _storable(verdict.error) if verdict.error is not None else None,
        "prompt_tokens": attempt.prompt_tokens,
        "completion_tokens": attempt.completion_tokens,
        "eos_prob_max": trace.prob_max,
        "eos_step_max": trace.step_max,
        "eos_rank_max": trace.rank_max,
        "eos_hidden_steps": trace.hidden_steps,
        "eos_probs": struct.pack(f"<{len(trace.probs)}e", *trace.probs) if trace.probs is not None else None,
        "strategies": attempt.strategies,
        "ending": attempt.ending.value if attempt.ending is not None else None,
        "trimmed_tokens": attempt.trimmed_tokens,
        "rewinds": attempt.rewinds,
        "rewound_tokens": attempt.rewound_tokens,
        "reasoning": _storable(attempt.reasoning) if attempt.reasoning is not None else None,
        "reasoning_tokens": attempt.reasoning_tokens,
        "ended_in": attempt.ended_in.value if attempt.ended_in is not None else None,
        "thought_closed": attempt.thought_closed.value if attempt.thought_closed is not None else None,
        "valid": attempt.valid,
        "choice_probs": _probs(attempt.choice_probs),
        "weights": attempt.weights,
        "logprobs": attempt.logprobs,
        "same_as": attempt.same_as,
        "cached_tokens": attempt.cached_tokens,
    }


def _probs(probs: Mapping[str, float] | None) -> str | None:
    """Return labels' probabilities as they are stored."""
    return None if probs is None else _storable(json.dumps(dict(probs), ensure_ascii=False))


def _storable(words: str) -> str:
    """Return text without what one of the databases cannot hold: NUL in Postgres, half characters in both."""
    return words.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
