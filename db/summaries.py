"""What is read of a job beyond its exported rows: EOS probabilities, sums of tokens, why rows failed, loops."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, text

from endmark.db.connection import Store
from endmark.db.transactions import reading
from endmark.jobs.vocabulary import Ending

_AT_ONCE = 200  # rows
_TRACES = text(
    "SELECT row, eos_probs FROM attempts a"
    " WHERE job_id = :job AND row IN :rows AND final AND eos_probs IS NOT NULL"
    " AND attempt = (SELECT max(attempt) FROM attempts b WHERE b.job_id = a.job_id AND b.row = a.row AND b.final)"
).bindparams(bindparam("rows", expanding=True))


def load_traces(store: Store, job_id: str, rows: Sequence[int]) -> Mapping[int, tuple[float, ...]]:
    """Return the EOS probabilities of the rows' results, by row; only of those that were traced.

    Raises:
        StoreError: the database cannot be used.
    """
    found: dict[int, tuple[float, ...]] = {}
    with reading(store) as connection:
        for begin in range(0, len(rows), _AT_ONCE):
            part = {"job": job_id, "rows": list(rows[begin : begin + _AT_ONCE])}
            for row, packed in connection.execute(_TRACES, part):
                found[row] = struct.unpack(f"<{len(packed) // 2}e", packed)
    return found


_ERRORS = text(
    "SELECT error, count(*) FROM attempts a WHERE job_id = :job AND final AND error IS NOT NULL"
    " AND attempt = (SELECT max(attempt) FROM attempts b WHERE b.job_id = a.job_id AND b.row = a.row AND b.final)"
    " GROUP BY error ORDER BY count(*) DESC, error LIMIT 1"
)


def commonest_error(store: Store, job_id: str) -> tuple[str, int] | None:
    """Return the error of which most of a job's rows failed, and how many; None if none failed.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(_ERRORS, {"job": job_id}).first()
    return (str(found[0]), int(found[1])) if found is not None else None


_LOOPS = text(
    f"SELECT count(*) FROM attempts a WHERE job_id = :job AND final AND ending = '{Ending.LOOP}'"
    " AND attempt = (SELECT max(attempt) FROM attempts b WHERE b.job_id = a.job_id AND b.row = a.row AND b.final)"
)


def count_loops(store: Store, job_id: str) -> int:
    """Return how many of a job's answers end in a loop, whatever ended them.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        return int(connection.execute(_LOOPS, {"job": job_id}).scalar_one())


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums over the results of a job's rows, and of their squares."""

    rows: int
    prompt_tokens: int
    prompt_squares: int
    completion_tokens: int
    completion_squares: int


_TOKENS = text(
    "SELECT count(*), "
    + ", ".join(
        f"coalesce(sum({name}), 0), coalesce(sum(CAST({name} AS BIGINT) * {name}), 0)"
        for name in ("prompt_tokens", "completion_tokens")
    )
    + " FROM attempts a WHERE job_id = :job AND final"
    " AND attempt = (SELECT max(attempt) FROM attempts b WHERE b.job_id = a.job_id AND b.row = a.row AND b.final)"
)


def token_sums(store: Store, job_id: str) -> TokenSums:
    """Return the sums over a job's results; every row of it is read.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(_TOKENS, {"job": job_id}).one()
    return TokenSums(*map(int, found))
