"""Rows that ask the same within a job: which of them is answered, and its answer for the others."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace

from sqlalchemy import Connection, bindparam, text

from endmark.db.connection import Store
from endmark.db.row_history import stored_attempt
from endmark.db.transactions import reading, write
from endmark.jobs.vocabulary import Attempt

_NEW = "INSERT INTO askers (job_id, round, digest, row) SELECT :job, :round, digest, row FROM "
_ASK = {
    "sqlite": _NEW + "(SELECT json_extract(value, '$[0]') AS digest, json_extract(value, '$[1]') AS row"
    " FROM json_each(:asked)) WHERE true",
    "postgresql": _NEW + "(SELECT value ->> 0 AS digest, (value ->> 1)::bigint AS row"
    " FROM json_array_elements(CAST(:asked AS json))) a",
}
_FIRST = text(
    "SELECT digest, row FROM askers WHERE job_id = :job AND round = :round AND digest IN :digests"
).bindparams(bindparam("digests", expanding=True))
# A row that was asked in this round and is no longer in it, as after a cancelled one, has no answer to hand on.
_ENDED = text(
    "SELECT a.* FROM attempts a JOIN rows r ON r.job_id = a.job_id AND r.row = a.row AND r.round = a.round"
    " WHERE a.job_id = :job AND a.round = :round AND a.final AND a.row IN :rows"
).bindparams(bindparam("rows", expanding=True))


def first_askers(store: Store, job_id: str, number: int, asked: Mapping[int, str]) -> dict[int, int]:
    """Return for each row of a round the row that asked the same first, which may be itself.

    Whoever comes first is stored, so that workers on several hosts agree.

    Args:
        number: the round.
        asked: for each row a digest of all that its answer hangs on.

    Raises:
        StoreError: the database cannot be used.
    """
    digests = sorted(set(asked.values()))
    pairs = json.dumps([[digest, row] for row, digest in sorted(asked.items())])

    def work(connection: Connection) -> dict[str, int]:
        named = {"job": job_id, "round": number}
        connection.execute(
            text(_ASK[store.dialect] + " ORDER BY digest, row ON CONFLICT DO NOTHING"), {**named, "asked": pairs}
        )
        found = connection.execute(_FIRST, {**named, "digests": digests})
        return {item.digest: item.row for item in found}

    first = write(store, work)
    return {row: first[digest] for row, digest in asked.items()}


def answers_of(store: Store, job_id: str, number: int, rows: Collection[int]) -> dict[int, Attempt]:
    """Return the results of those of the rows that have one in a round.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(_ENDED, {"job": job_id, "round": number, "rows": sorted(rows)}).all()
    return {item.row: stored_attempt(item) for item in found}


def handed_on(answer: Attempt, row: int, number: int) -> Attempt:
    """Return the answer of one row as that of another, which asked the same.

    Args:
        number: of the attempt, in the row that is given the answer.
    """
    return replace(answer, row=row, attempt=number, same_as=answer.row, cached_tokens=answer.prompt_tokens)
