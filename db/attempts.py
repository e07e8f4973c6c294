"""Storing finished attempts under a lease: all of a batch or nothing, each row once."""

import struct
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from db.connection import Store, unreachable
from db.schema import COUNTERS
from db.schema import attempts as attempts_table
from jobs.errors import LeaseLost
from jobs.vocabulary import Attempt, EosSource, FinishReason, Lease, Outcome

_TRIES, _WAIT = 4, 0.2


def commit(store: Store, lease: Lease, outcomes: Sequence[Outcome]) -> None:
    """Store rows' attempts and count them, in one transaction.

    Raises:
        LeaseLost: the shard is another worker's now, or its job has been cancelled; nothing was written.
        StoreError: the database cannot be reached.
    """
    for number in range(_TRIES):
        try:
            with store.writer.begin() as connection:
                _write(store, connection, lease, outcomes, again=number > 0)
            return
        except DBAPIError as error:
            if number + 1 == _TRIES:
                raise unreachable(store, error) from error
            time.sleep(_WAIT * 2**number)


def _write(
    store: Store, connection: Connection, lease: Lease, outcomes: Sequence[Outcome], *, again: bool
) -> None:
    """Write one batch; `again` where the reply to an earlier try was lost, which may have been stored."""
    job, shard = lease.key.job_id, lease.key.shard
    if again:
        stored = _stored(connection, job, outcomes)
        outcomes = [item for item in outcomes if (item.attempts[-1].row, item.round) not in stored]
    counts = _count(outcomes)
    changes = "".join(f", {name} = {name} + :{name}" for name in COUNTERS)
    done = connection.execute(
        text(
            f"UPDATE shards SET updated_at = {store.now}{changes}"
            " WHERE job_id = :job AND shard = :shard AND fence = :fence AND state = 'running'"
        ),
        {**counts, "job": job, "shard": shard, "fence": lease.fence},
    )
    if done.rowcount != 1:
        raise LeaseLost(f"job {job} shard {shard} is held by another worker, or has been stopped")
    values = [
        _values(job, item.round, attempt, final=attempt is item.attempts[-1])
        for item in outcomes
        for attempt in item.attempts
    ]
    if values:
        connection.execute(_UPSERT, values)


_NAMES = [column.name for column in attempts_table.columns]
_UPSERT = text(
    f"INSERT INTO attempts ({', '.join(_NAMES)}) VALUES ({', '.join(':' + name for name in _NAMES)})"
    " ON CONFLICT (job_id, row, attempt) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _NAMES[3:])
)


def _stored(connection: Connection, job: str, outcomes: Sequence[Outcome]) -> set[tuple[int, int]]:
    """Return (row, round) of the outcomes that an earlier try has stored."""
    table = attempts_table.c
    found = connection.execute(
        select(table.row, table.round).where(
            table.job_id == job, table.final, table.row.in_([item.attempts[-1].row for item in outcomes])
        )
    )
    return {(item.row, item.round) for item in found}


def _count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return what the outcomes add to the shard's counters."""
    counts: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
    for outcome in outcomes:
        attempt = outcome.attempts[-1]
        verdict = attempt.verdict
        failed = verdict.finish_reason is FinishReason.ERROR
        counts["failed" if failed else "succeeded"] += 1
        if verdict.finish_reason is FinishReason.EOS:
            counts[f"eos_{verdict.eos_source or EosSource.NATURAL}"] += 1
        elif not failed:
            counts[verdict.finish_reason.value] += 1
        counts["prompt_tokens"] += attempt.prompt_tokens
        counts["completion_tokens"] += attempt.completion_tokens
    return dict(counts)


def _values(job: str, number: int, attempt: Attempt, *, final: bool) -> dict[str, Any]:
    """Return an attempt as a row of its table."""
    verdict, trace = attempt.verdict, attempt.trace
    return {
        "job_id": job,
        "row": attempt.row,
        "attempt": attempt.attempt,
        "round": number,
        "final": final,
        "text": attempt.text.replace("\0", ""),  # Postgres stores no NUL
        "finish_reason": verdict.finish_reason.value,
        "eos_source": verdict.eos_source.value if verdict.eos_source else None,
        "stop_sequence": verdict.stop_sequence,
        "error": verdict.error,
        "prompt_tokens": attempt.prompt_tokens,
        "completion_tokens": attempt.completion_tokens,
        "eos_prob_max": trace.prob_max,
        "eos_step_max": trace.step_max,
        "eos_rank_max": trace.rank_max,
        "eos_hidden_steps": trace.hidden_steps,
        "eos_probs": struct.pack(f"<{len(trace.probs)}e", *trace.probs) if trace.probs is not None else None,
        "strategies": attempt.strategies,
    }
