"""A job's rows as a page shows them: a few at a time by key, by their ends and by words, never counted."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.counting import ANSWERED, COMPLETE, any_of, ended_so
from endmark.db.export.stream import is_complete
from endmark.db.transactions import reading
from endmark.jobs.vocabulary import ENDS, End, Ending

_SPAN = 10_000  # rows looked at between two looks at the clock
_SECONDS = 0.5  # that one look for rows may take
_EXCERPT = 300  # characters of an answer, from its end
WAITING = "waiting"
_CUT = [end for end in ENDS if end.reason.truncated]


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows that ended in one of some ways."""

    label: str
    counter: str  # in SQL, how many of them a shard `s` has
    condition: str  # in SQL, whether an attempt `a` makes its row one of them


KINDS: Mapping[str, Kind] = {
    "complete": Kind("complete", "s.complete", COMPLETE),
    "incomplete": Kind("not complete", "s.succeeded - s.complete", f"{ANSWERED} AND ({COMPLETE}) IS NOT TRUE"),
    "truncated": Kind("truncated", " + ".join(f"s.{end.counter}" for end in _CUT), any_of(map(ended_so, _CUT))),
    **{end.name: Kind(end.label, f"s.{end.counter}", ended_so(end)) for end in ENDS if end.counter},
    WAITING: Kind("without a result", "s.end_row - s.first_row - s.succeeded - s.failed", "a.row IS NULL"),
}
# Without `+ 0` SQLite takes the bounds of `r.row` for those of `a.row` too, and reads the span once for each row.
_JOINED = (
    " FROM rows r LEFT JOIN attempts a"
    " ON a.job_id = r.job_id AND a.row = r.row + 0 AND a.round = r.round AND a.final"
)
Order = Literal["", "longest", "shortest"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows to look for."""

    kind: str = ""  # one of `KINDS`; empty: however they ended
    words: str = ""  # in the cells or in the answer, as they stand; ASCII letters in either case
    order: Order = ""  # by the tokens of the answers; empty: as in the dataset
    key: int | None = None  # the row beyond which to look
    key_tokens: int = 0  # its tokens, where rows are ordered by them
    backwards: bool = False  # the rows before the key instead of those behind it; not where they are ordered
    limit: int = 25


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row in a list of rows."""

    row: int
    cells: list[Any]
    excerpt: str  # of the answer: its end, or all of it
    clipped: bool  # whether there is more before it
    end: End | None  # None while it has no result
    ending: Ending | None
    complete: bool
    tokens: int
    attempts: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """Some rows in their order."""

    rows: list[FoundRow]
    looked_to: int | None  # the row to go on beyond; None where all were looked at


def find_rows(store: Store, job_id: str, total: int, wanted: Wanted) -> Found:
    """Look for rows, until there are enough or half a second has gone.

    Shards that have no row of the kind wanted are passed over by their counters. For an order by tokens all rows
    that have a result are looked at, however long that takes.

    Args:
        total: rows of the job.

    Raises:
        StoreError: the database cannot be used.
    """
    if wanted.order and wanted.kind != WAITING:
        return _by_tokens(store, job_id, wanted)
    deadline = time.monotonic() + _SECONDS
    statement, values = _statement(store, wanted)
    found: list[FoundRow] = []
    with reading(store) as connection:
        for first, end in _spans(connection, job_id, total, wanted):
            room = wanted.limit - len(found)
            bounds = {"job": job_id, "first": first, "end": end, "limit": room + 1, **values}
            taken = connection.execute(statement, bounds).all()
            found += [_found(item) for item in taken[:room]]
            if len(taken) > room:
                return Found(_ordered(found, wanted), found[-1].row)
            if time.monotonic() > deadline:
                edge = first if wanted.backwards else end - 1
                return Found(_ordered(found, wanted), edge if 0 < edge < total - 1 else None)
    return Found(_ordered(found, wanted), None)


def _ordered(found: list[FoundRow], wanted: Wanted) -> list[FoundRow]:
    """Return rows in the order of the dataset."""
    return found[::-1] if wanted.backwards else found


def _by_tokens(store: Store, job_id: str, wanted: Wanted) -> Found:
    """Return the rows with the longest or the shortest answers."""
    down = wanted.order == "longest"
    conditions, values = _conditions(store, wanted)
    bounds = {"job": job_id, "limit": wanted.limit + 1, **values}
    if wanted.key is not None:
        beyond = "<" if down else ">"
        same = "a.completion_tokens = :tokens AND a.row > :key"
        conditions.append(f"(a.completion_tokens {beyond} :tokens OR ({same}))")
        bounds |= {"key": wanted.key, "tokens": wanted.key_tokens}
    order = f"ORDER BY a.completion_tokens {'DESC' if down else 'ASC'}, a.row"
    with reading(store) as connection:
        rounds = connection.execute(text("SELECT count(*) FROM specs WHERE job_id = :job"), bounds).scalar_one()
        # Without words to look for, and a second round, rows tell nothing that their attempts do not.
        joined = " JOIN rows r ON r.job_id = a.job_id AND r.row = a.row + 0 AND r.round = a.round"
        source = f"attempts a{joined if wanted.words or rounds > 1 else ''}"
        chosen = " AND ".join(("a.job_id = :job", "a.final", *conditions))
        first = f"SELECT a.row FROM {source} WHERE {chosen} {order} LIMIT :limit"
        statement = f"SELECT {_columns(store)}{_JOINED} WHERE r.job_id = :job AND r.row IN ({first}) {order}"
        taken = connection.execute(text(statement), bounds).all()
    found = [_found(item) for item in taken[: wanted.limit]]
    return Found(found, found[-1].row if len(taken) > wanted.limit else None)


def _statement(store: Store, wanted: Wanted) -> tuple[Any, dict[str, str]]:
    """Return the query for a span of rows, and what it compares with."""
    conditions, values = _conditions(store, wanted)
    chosen = " AND ".join(("r.job_id = :job", "r.row >= :first", "r.row < :end", *conditions))
    statement = (
        f"SELECT {_columns(store)}{_JOINED} WHERE {chosen}"
        f" ORDER BY r.row {'DESC' if wanted.backwards else 'ASC'} LIMIT :limit"
    )
    return text(statement), values


def _columns(store: Store) -> str:
    """Return what is read of a row and its result."""
    tail = f"substr(a.text, -{_EXCERPT})" if store.dialect == "sqlite" else f"right(a.text, {_EXCERPT})"
    return (
        f"r.row, r.cells, {tail} AS excerpt, length(a.text) AS length, a.finish_reason, a.eos_source,"
        " a.ending, a.completion_tokens, a.attempt, a.error, a.valid"
    )


def _conditions(store: Store, wanted: Wanted) -> tuple[list[str], dict[str, str]]:
    """Return the conditions for rows of a kind and with some words, and what they compare with."""
    conditions = [f"({KINDS[wanted.kind].condition})"] if wanted.kind else []
    if not wanted.words:
        return conditions, {}
    conditions.append(f"(r.cells {store.like} :cells ESCAPE '!' OR a.text {store.like} :words ESCAPE '!')")
    return conditions, {"words": pattern_of(wanted.words), "cells": pattern_of(_as_stored(wanted.words))}


def _as_stored(words: str) -> str:
    """Return words as they stand within a JSON text."""
    return json.dumps(words, ensure_ascii=False)[1:-1]


def pattern_of(words: str) -> str:
    """Return the pattern of `LIKE … ESCAPE '!'` for a text that holds some words."""
    for sign in "!%_":
        words = words.replace(sign, f"!{sign}")
    return f"%{words}%"


def _spans(connection: Connection, job_id: str, total: int, wanted: Wanted) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows in which to look, in order."""
    first = 0 if wanted.backwards or wanted.key is None else wanted.key + 1
    end = min(total, wanted.key) if wanted.backwards and wanted.key is not None else total
    spans = [(first, end)] if not wanted.kind else _shards_with(connection, job_id, first, end, wanted.kind)
    parts = [(begin, min(begin + _SPAN, stop)) for start, stop in spans for begin in range(start, stop, _SPAN)]
    yield from reversed(parts) if wanted.backwards else parts


def _shards_with(
    connection: Connection, job_id: str, first: int, end: int, kind: str
) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the shards that have rows of a kind; neighbours as one."""
    held = connection.execute(
        text(
            f"SELECT s.first_row, s.end_row FROM shards s WHERE s.job_id = :job AND s.end_row > :first"
            f" AND s.first_row < :end AND {KINDS[kind].counter} > 0 ORDER BY s.first_row"
        ),
        {"job": job_id, "first": first, "end": end},
    )
    begin = stop = first
    for item in held:
        if item.first_row > stop:
            if stop > begin:
                yield begin, stop
            begin = item.first_row
        begin, stop = max(begin, first), min(item.end_row, end)
    if stop > begin:
        yield begin, stop


def _found(item: Any) -> FoundRow:  # noqa: ANN401 - a row of the query
    """Return a row as it was found."""
    end = End.of(item.finish_reason, item.eos_source) if item.finish_reason is not None else None
    ending = Ending(item.ending) if item.ending else None
    return FoundRow(
        row=item.row,
        cells=json.loads(item.cells),
        excerpt=item.excerpt or "",
        clipped=(item.length or 0) > _EXCERPT,
        end=end,
        ending=ending,
        complete=is_complete(end, ending, item.valid),
        tokens=item.completion_tokens or 0,
        attempts=item.attempt or 0,
        error=item.error,
    )


def count_ends(store: Store, job_id: str) -> Mapping[End, int]:
    """Return how many of a job's rows ended in which way, from the counters of its shards.

    Raises:
        StoreError: the database cannot be used.
    """
    counted = [end for end in ENDS if end.counter]
    sums = ", ".join(f"coalesce(sum({end.counter}), 0)" for end in counted)
    with reading(store) as connection:
        found = connection.execute(text(f"SELECT {sums} FROM shards WHERE job_id = :job"), {"job": job_id}).one()
    return {end: int(count) for end, count in zip(counted, found, strict=True) if count}


def count_kind(store: Store, job_id: str, kind: str) -> int:
    """Return how many of a job's rows are of a kind, from the counters of its shards.

    Args:
        kind: one of `KINDS`; empty: all that have a result.

    Raises:
        StoreError: the database cannot be used.
    """
    counter = KINDS[kind].counter if kind else "s.succeeded + s.failed"
    statement = f"SELECT coalesce(sum({counter}), 0) FROM shards s WHERE s.job_id = :job"
    with reading(store) as connection:
        return int(connection.execute(text(statement), {"job": job_id}).scalar_one())
