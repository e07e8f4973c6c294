"""Reading rows with their results in input order, a chunk at a time, in constant memory."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import text

from endmark.db.connection import Store
from endmark.db.transactions import reading
from endmark.jobs.endings import ending_of
from endmark.jobs.logprobs import as_openai
from endmark.jobs.vocabulary import End, Ending, FinishReason, JobState, Part

Only = Literal["truncated", "failed", "complete"]
COLUMNS = (
    "sample",
    "response",
    "finish_reason",
    "ended_with_eos",
    "truncated",
    "eos_source",
    "stop_sequence",
    "ending",
    "complete",
    "valid",
    "choice",
    "choice_prob",
    "choice_probs",
    "prompt_tokens",
    "completion_tokens",
    "trimmed_tokens",
    "rewinds",
    "rewound_tokens",
    "reasoning",
    "reasoning_tokens",
    "ended_in",
    "thought_closed",
    "attempts",
    "eos_prob_max",
    "weights",
    "same_as",
    "error",
)
_QUERY = (
    "SELECT r.row, r.sample, r.cells, a.text, a.finish_reason, a.eos_source, a.stop_sequence, a.prompt_tokens,"
    " a.completion_tokens, a.attempt, a.eos_prob_max, a.error, a.ending, a.trimmed_tokens,"
    " a.rewinds, a.rewound_tokens, a.reasoning, a.reasoning_tokens, a.ended_in, a.thought_closed, a.valid,"
    " a.choice_probs, a.weights, a.same_as, a.cached_tokens, {told}"
    " FROM rows r"
    " LEFT JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row AND a.final"
    " AND a.attempt ="
    " (SELECT max(attempt) FROM attempts b WHERE b.job_id = r.job_id AND b.row = r.row AND b.final)"
    " WHERE r.job_id = :job AND r.row >= :first AND r.row < :end ORDER BY r.row"
)


@dataclass(frozen=True, slots=True)
class Result:
    """One row with its result; of `values` only the sample and the last ones are there while it has none."""

    row: int
    cells: list[Any]
    values: tuple[Any, ...]  # in the order of COLUMNS
    logprobs: str | None = None  # of its tokens, as stored; read on request alone, for there may be much of it
    cached_tokens: int = 0  # of the prompt; no column, for it hangs on what ran before

    def as_dict(self, columns: Sequence[str]) -> dict[str, Any]:
        """Return all by name.

        Args:
            columns: the input's, as they are to come out; those that the row does not have are None.
        """
        cells = [*self.cells, *([None] * (len(columns) - len(self.cells)))]
        found = dict(zip(["row", *columns, *COLUMNS], (self.row, *cells, *self.values), strict=True))
        return found if self.logprobs is None else {**found, "logprobs": as_openai(self.logprobs)}


def result_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the input's columns as they come out: one that is called like a result's stands behind `input_`."""
    return tuple(f"input_{name}" if name in ("row", *COLUMNS) else name for name in columns)


def stream_results(
    store: Store, job_id: str, *, only: Only | None = None, logprobs: bool = False, chunk: int = 2000
) -> Iterator[Result]:
    """Yield the job's rows in input order.

    Args:
        only: rows whose answer is truncated, that failed, or that have a complete answer; by default all.
        logprobs: read the log probabilities of the answers' tokens, where they are kept.
        chunk: rows read at once.
    """
    query = text(_QUERY.format(told="a.logprobs" if logprobs else "NULL"))
    with reading(store) as connection:
        job = connection.execute(text("SELECT total, state FROM jobs WHERE id = :job"), {"job": job_id}).one()
        missing = FinishReason.CANCELLED.value if job.state == JobState.CANCELLED else None
        for first in range(0, job.total, chunk):
            found = connection.execute(query, {"job": job_id, "first": first, "end": first + chunk})
            for item in found:
                result = _result(tuple(item), missing, only)
                if result is not None:
                    yield result


def _result(item: tuple[Any, ...], missing: str | None, only: Only | None) -> Result | None:
    """Return a row of the query with its result; None if it is not among those asked for.

    Args:
        missing: how a row without a result has ended.
    """
    row, sample, cells, response, reason, source, stop, prompt, tokens, attempt, prob, error, at, *more = item
    *cut, part, closed, valid, probs, weights, same_as, cached, told = more
    end = _end(reason or missing, source)
    ending = _ending(response, end, at)
    part = part or (Part.ANSWER.value if end is not None and end.reason.has_answer else None)
    complete = is_complete(end, ending, valid)
    if only is not None and not _wanted(only, end, complete=complete):
        return None
    values = (
        sample,
        response,
        end.reason.value if end else None,
        end.reason is FinishReason.EOS if end else None,
        end.reason.truncated if end else None,
        source,
        stop,
        ending.value if ending is not None else None,
        complete if end else None,
        *_shaped(response, valid, probs),
        prompt,
        tokens,
        *cut,
        part,
        closed,
        attempt if attempt is not None else 0,
        prob,
        weights,
        same_as,
        error,
    )
    return Result(row, json.loads(cells), values, told, cached or 0)


def read_probs(stored: str | None) -> dict[str, float] | None:
    """Return the probabilities of labels that are stored as JSON."""
    return None if stored is None else dict(json.loads(stored))


def _shaped(response: str | None, valid: Any, stored: str | None) -> tuple[Any, ...]:  # noqa: ANN401 - a database's
    """Return whether an answer is valid, and the label that was chosen by its score, its probability and all."""
    probs = read_probs(stored)
    chosen = (None, None, None) if probs is None else (response, max(probs.values()), stored)
    return (None if valid is None else bool(valid), *chosen)


@cache
def _end(reason: str | None, source: str | None) -> End | None:
    """Return how a row ended; None while it has no result."""
    return None if reason is None else End.of(reason, source)


def _ending(response: str | None, end: End | None, stored: str | None) -> Ending | None:
    """Return where a result's text ends: as stored, or worked out for a row of before endings were stored."""
    if response is None or end is None or not end.reason.has_answer:
        return None
    return Ending(stored) if stored else ending_of(response, cut=end.reason.truncated)


def is_complete(end: End | None, ending: Ending | None, valid: Any) -> bool:  # noqa: ANN401 - as a database has it
    """Return whether an answer is complete: one in a shape if it is valid, any other by its ending."""
    return bool(valid) if valid is not None else end is not None and ending is not None and ending.is_complete(end)


def _wanted(only: Only, end: End | None, *, complete: bool) -> bool:
    """Whether a row that ended so is among those asked for."""
    if only == "complete":
        return complete
    return end is not None and (end.failed if only == "failed" else end.reason.truncated)
