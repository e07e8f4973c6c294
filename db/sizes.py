"""How many bytes jobs take: counted where they are small, else projected from some of their rows."""

from dataclasses import dataclass

from sqlalchemy import bindparam, text

from endmark.db.connection import Store
from endmark.db.transactions import reading

_COUNTED = 1000  # rows that are looked at


@dataclass(frozen=True, slots=True)
class JobSize:
    """What a job's rows take in the database, without what the database itself puts around them."""

    rows: int
    prompt_bytes: int  # the cells of the dataset
    answer_bytes: int  # of all attempts
    trace_bytes: int  # EOS probabilities
    exact: bool  # every row was looked at

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.prompt_bytes + self.answer_bytes + self.trace_bytes


def job_size(store: Store, job_id: str, rows: int) -> JobSize:
    """Return how much of the database a job takes, from at most 1,000 of its rows, spread evenly.

    Args:
        rows: how many the job has.

    Raises:
        StoreError: the database cannot be used.
    """
    looked_at = [rows * index // _COUNTED for index in range(_COUNTED)] if rows > _COUNTED else list(range(rows))
    if not looked_at:
        return JobSize(0, 0, 0, 0, exact=True)
    cells, answers, traces = (_bytes_of(store, name) for name in ("cells", "text", "eos_probs"))
    answers += f" + coalesce({_bytes_of(store, 'reasoning')}, 0)"
    with reading(store) as connection:
        values = {"job": job_id, "rows": looked_at}
        stored = connection.execute(
            text(f"SELECT coalesce(sum({cells}), 0) FROM rows WHERE job_id = :job AND row IN :rows").bindparams(
                bindparam("rows", expanding=True)
            ),
            values,
        ).scalar_one()
        answered = connection.execute(
            text(
                f"SELECT coalesce(sum({answers}), 0) AS answers, coalesce(sum({traces}), 0) AS traces"
                " FROM attempts WHERE job_id = :job AND row IN :rows"
            ).bindparams(bindparam("rows", expanding=True)),
            values,
        ).one()
    share = rows / len(looked_at)
    return JobSize(
        rows=rows,
        prompt_bytes=round(int(stored) * share),
        answer_bytes=round(int(answered.answers) * share),
        trace_bytes=round(int(answered.traces) * share),
        exact=len(looked_at) == rows,
    )


def _bytes_of(store: Store, column: str) -> str:
    """Return the bytes of a column's value as an SQL expression."""
    return f"length(CAST({column} AS BLOB))" if store.dialect == "sqlite" else f"octet_length({column})"
