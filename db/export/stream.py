"""Reading rows with their results in input order, a batch at a time and by columns, in constant memory."""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, Literal

from sqlalchemy import Connection, text

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
_CHUNK = 500  # rows, of which twice as many are in memory
# Of a row that was run again there are several final attempts, of which the reader keeps the last.
_QUERY = (
    "SELECT r.row, r.sample, r.cells, a.text, a.finish_reason, a.eos_source, a.stop_sequence, a.prompt_tokens,"
    " a.completion_tokens, coalesce(a.attempt, 0), a.eos_prob_max, a.error, a.ending, a.trimmed_tokens,"
    " a.rewinds, a.rewound_tokens, a.reasoning, a.reasoning_tokens, a.ended_in, a.thought_closed, a.valid,"
    " a.choice_probs, a.weights, a.same_as, coalesce(a.cached_tokens, 0), {told}"
    " FROM rows r"
    " LEFT JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row AND a.final{near}"
    " WHERE r.job_id = :job AND r.row >= :first AND r.row < :end ORDER BY r.row, a.attempt"
)
# Postgres does not conclude from one range to the other; SQLite would take this one for each row anew.
_NEAR = {"postgresql": " AND a.job_id = :job AND a.row >= :first AND a.row < :end"}
_Item = tuple[Any, ...]  # a row of the query


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


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows with their results, by columns: what costs Python a call is done once for a column."""

    rows: Sequence[int]
    cells: Sequence[list[Any]]
    values: Sequence[Sequence[Any]]  # a column for each of COLUMNS
    logprobs: Sequence[str | None]
    cached_tokens: Sequence[int]

    def results(self) -> Iterator[Result]:
        """Yield the rows one by one."""
        values = zip(*self.values, strict=True)
        return map(Result, self.rows, self.cells, values, self.logprobs, self.cached_tokens)


def result_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the input's columns as they come out: one that is called like a result's stands behind `input_`."""
    return tuple(f"input_{name}" if name in ("row", *COLUMNS) else name for name in columns)


def stream_results(
    store: Store, job_id: str, *, only: Only | None = None, logprobs: bool = False, chunk: int = _CHUNK
) -> Iterator[Result]:
    """Yield the job's rows in input order; arguments as those of `stream_batches`."""
    for batch in stream_batches(store, job_id, only=only, logprobs=logprobs, chunk=chunk):
        yield from batch.results()


def stream_batches(
    store: Store,
    job_id: str,
    *,
    only: Only | None = None,
    logprobs: bool = False,
    chunk: int = _CHUNK,
    rows: range | None = None,
) -> Iterator[Batch]:
    """Yield the job's rows in input order; while a batch is used, Postgres reads the next one.

    Args:
        only: rows whose answer is truncated, that failed, or that have a complete answer; by default all.
        logprobs: read the log probabilities of the answers' tokens, where they are kept.
        chunk: rows read at once.
        rows: those alone; by default all.
    """
    near = _NEAR.get(store.dialect, "")
    query = text(_QUERY.format(told="a.logprobs" if logprobs else "NULL", near=near))

    def read(connection: Connection, first: int, end: int) -> list[_Item]:
        found = connection.execute(query, {"job": job_id, "first": first, "end": end})
        items = found.cursor.fetchall()  # the driver's own tuples, in half the time that SQLAlchemy's take
        found.close()
        return list(items)

    with reading(store) as connection:
        job = connection.execute(text("SELECT total, state FROM jobs WHERE id = :job"), {"job": job_id}).one()
        missing = FinishReason.CANCELLED.value if job.state == JobState.CANCELLED else None
        wanted = range(job.total) if rows is None else rows
        bounds = ((connection, first, min(first + chunk, wanted.stop)) for first in wanted[::chunk])
        # SQLite's driver takes the interpreter's lock anew for each row, for which a second thread waits long.
        at_once = store.dialect == "sqlite"
        found = (read(*item) for item in bounds) if at_once else _ahead(read, bounds)
        with closing(found):  # before the connection is: it may be reading ahead
            for items in found:
                batch = _batch(items, missing, only)
                if batch is not None:
                    yield batch


def _ahead(
    read: Callable[..., list[_Item]], arguments: Iterator[tuple[Any, ...]]
) -> Generator[list[_Item], None, None]:
    """Yield what is read with each of the arguments; while one is used, the next is read."""
    with ThreadPoolExecutor(1, "export") as reader:
        ahead = [reader.submit(read, *item) for item in islice(arguments, 1)]
        while ahead:
            found = ahead.pop().result()
            ahead = [reader.submit(read, *item) for item in islice(arguments, 1)]
            yield found


def rows_of_part(store: Store, job_id: str, number: int, count: int) -> range:
    """Return the rows of one of a job's parts, which are about as large; answers of one prompt stay together.

    Args:
        number: of the part, from 1.
        count: of the parts.
    """
    query = text(
        "SELECT row FROM rows WHERE job_id = :job AND row >= :edge AND coalesce(sample, 0) = 0"
        " ORDER BY row LIMIT 1"
    )
    with reading(store) as connection:
        total = connection.execute(text("SELECT total FROM jobs WHERE id = :job"), {"job": job_id}).scalar_one()
        edges = ((total * edge) // count for edge in (number - 1, number))
        found = [connection.execute(query, {"job": job_id, "edge": edge}).scalar() for edge in edges]
    return range(*(total if edge is None else edge for edge in found))


def _batch(found: list[_Item], missing: str | None, only: Only | None) -> Batch | None:
    """Return rows of the query with their results; None if none of them is among those asked for.

    Args:
        missing: how a row without a result has ended.
    """
    if not found:
        return None
    columns = list(zip(*found, strict=True))
    if len(set(columns[0])) < len(found):
        found = list({item[0]: item for item in found}.values())
        columns = list(zip(*found, strict=True))
    judged = _judged_rows(columns, missing)
    if only is not None:
        wanted = [_wanted(only, *item) for item in zip(*judged[:2], strict=True)]
        found, judged = list(compress(found, wanted)), [list(compress(column, wanted)) for column in judged]
        if not found:
            return None
        columns = list(zip(*found, strict=True))
    row, sample, cells, response, _, source, stop, prompt, tokens, attempt, prob, error, _, *more = columns
    trimmed, rewinds, rewound, reasoning, thought, _, closed, _, probs, weights, same_as, cached, told = more
    _, complete, reason, by_eos, truncated, ending, part, valid = judged
    chosen = _chosen(response, probs)
    values = (
        *(sample, response, reason, by_eos, truncated, source, stop, ending, complete, valid, *chosen),
        *(prompt, tokens, trimmed, rewinds, rewound, reasoning, thought, part, closed),
        *(attempt, prob, weights, same_as, error),
    )
    return Batch(row, json.loads(f"[{','.join(cells)}]"), values, told, cached)


def _judged_rows(columns: Sequence[Sequence[Any]], missing: str | None) -> Sequence[Sequence[Any]]:
    """Return what is concluded from how rows ended, as `_judged` has it, by columns.

    Args:
        columns: of the query.
        missing: how a row without a result has ended.
    """
    responses, reasons, sources, ats, parts, valids = (columns[place] for place in (3, 4, 5, 12, 18, 20))
    if None in reasons or None in ats:
        old = zip(ats, responses, reasons, sources, strict=True)
        ats = [at or _ending_of_old(*item) for at, *item in old]
        reasons = [reason or missing for reason in reasons]
    keys = list(zip(reasons, sources, ats, parts, valids, strict=True))
    known = {key: _judged(*key) for key in set(keys)}
    if len(known) == 1:
        return [[value] * len(keys) for value in known[keys[0]]]
    return list(zip(*map(known.__getitem__, keys), strict=True))


def read_probs(stored: str | None) -> dict[str, float] | None:
    """Return the probabilities of labels that are stored as JSON."""
    return None if stored is None else dict(json.loads(stored))


def _chosen(responses: Sequence[str | None], probs: Sequence[str | None]) -> Sequence[Sequence[Any]]:
    """Return the labels that were chosen by their scores, their probabilities, and all as stored; by columns."""
    nothing = [None] * len(probs)
    if probs.count(None) == len(probs):
        return nothing, nothing, probs
    read = [read_probs(stored) for stored in probs]
    labels = [None if item is None else response for item, response in zip(read, responses, strict=True)]
    return labels, [None if item is None else max(item.values()) for item in read], probs


def _judged(reason: str | None, source: str | None, at: str | None, part: str | None, valid: Any) -> _Item:  # noqa: ANN401
    """Return what is concluded from how a row ended, once for the many that ended alike.

    Args:
        reason: None while it has no result.
        valid: as a database has it.

    Returns:
        The end, and of COLUMNS `complete`, `finish_reason`, `ended_with_eos`, `truncated`, `ending`, `ended_in`
        and `valid`.
    """
    checked = None if valid is None else bool(valid)
    if reason is None:
        return None, None, None, None, None, None, part, checked
    end = End.of(reason, source)
    ending = Ending(at) if at and end.reason.has_answer else None
    complete = is_complete(end, ending, valid)
    by_eos, cut = end.reason is FinishReason.EOS, end.reason.truncated
    part = part or (Part.ANSWER.value if end.reason.has_answer else None)
    return end, complete, end.reason.value, by_eos, cut, ending.value if ending else None, part, checked


def _ending_of_old(response: str | None, reason: str | None, source: str | None) -> str | None:
    """Return where the text of a row ends that was stored before endings were."""
    if response is None or reason is None:
        return None
    end = End.of(reason, source)
    return ending_of(response, cut=end.reason.truncated).value if end.reason.has_answer else None


def is_complete(end: End | None, ending: Ending | None, valid: Any) -> bool:  # noqa: ANN401 - as a database has it
    """Return whether an answer is complete: one in a shape if it is valid, any other by its ending."""
    return bool(valid) if valid is not None else end is not None and ending is not None and ending.is_complete(end)


def _wanted(only: Only, end: End | None, complete: bool | None) -> bool:
    """Whether a row that ended so is among those asked for."""
    if end is None:
        return False
    return bool(complete) if only == "complete" else end.failed if only == "failed" else end.reason.truncated
