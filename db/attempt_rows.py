"""Attempts as rows of their table: many in one COPY on Postgres, in one statement on SQLite."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from endmark.db.connection import Store
from endmark.db.copying import copy_block
from endmark.db.schema import attempts as attempts_table
from endmark.jobs.vocabulary import Attempt, Outcome

# What a column holds that is left out of an INSERT: most are, and cost neither the client nor the server anything.
_DEFAULTS = {column.name: None if column.server_default is None else 0 for column in attempts_table.columns}
_NEEDED = {
    column.name for column in attempts_table.columns if not column.nullable and column.server_default is None
}
_ONCE = " ON CONFLICT (job_id, row, attempt) DO NOTHING"
_ANEW = " ON CONFLICT (job_id, row, attempt) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _DEFAULTS if name not in ("job_id", "row", "attempt")
)
_UNIQUE_VIOLATION = "23505"  # of Postgres


class AlreadyStored(Exception):
    """Some of what is to be stored is stored already; the transaction is to be rolled back."""


def insert_outcomes(
    store: Store, connection: Connection, job_id: str, outcomes: Sequence[Outcome], *, anew: bool = False
) -> None:
    """Store the attempts of outcomes, the last of each as final.

    Args:
        anew: in the place of attempts of the same numbers.

    Raises:
        AlreadyStored: one of the same number is there, and `anew` is not set.
    """
    values = [
        _values(job_id, outcome.round, attempt, final=attempt is outcome.attempts[-1])
        for outcome in outcomes
        for attempt in outcome.attempts
    ]
    if not values:
        return
    columns = dict(zip(values[0], zip(*(item.values() for item in values), strict=True), strict=True))
    columns = {
        name: column
        for name, column in columns.items()
        if name in _NEEDED or column.count(_DEFAULTS[name]) < len(values)
    }
    if store.dialect == "postgresql" and not anew:
        _copy(connection, columns)
    else:
        mark = "?" if store.dialect == "sqlite" else "%s"
        marks = ", ".join([mark] * len(columns))
        statement = f"INSERT INTO attempts ({', '.join(columns)}) VALUES ({marks})" + (_ANEW if anew else _ONCE)
        rows = list(zip(*columns.values(), strict=True))
        if connection.exec_driver_sql(statement, rows).rowcount < len(rows) and not anew:
            raise AlreadyStored


def _copy(connection: Connection, columns: Mapping[str, Sequence[Any]]) -> None:
    """Store rows by COPY, which takes Postgres a third of the time of an INSERT of JSON."""
    lines = zip(*map(_copied, columns.values()), strict=True)
    block = "".join(["\t".join(line) + "\n" for line in lines])
    try:
        copy_block(connection, f"COPY attempts ({', '.join(columns)}) FROM STDIN", block)
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) == _UNIQUE_VIOLATION:
            raise AlreadyStored from error
        raise


def _copied(column: Sequence[Any]) -> list[str]:
    """Return a column as COPY reads it."""
    if column.count(column[0]) == len(column):  # as most are
        return [_as_text(column[0])] * len(column)
    return [_as_text(value) for value in column]


def _as_text(value: Any) -> str:  # noqa: ANN401 - of any column
    """Return a value as COPY reads it; a number that is none is null."""
    if isinstance(value, str):
        return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    if isinstance(value, bytes):
        return f"\\\\x{value.hex()}"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\\N"
    return str(value)


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
