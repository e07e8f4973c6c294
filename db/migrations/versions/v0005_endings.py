"""Answers: where their text ends, and what was trimmed; shards: how many are complete.

Endings of the answers that are there are worked out from their texts.
"""

import sqlalchemy as sa
from alembic import op

from endmark.jobs.endings import ending_of

revision = "0005"
down_revision = "0004"
_CHUNK = 500  # rows
_COMPLETE = (
    "a.finish_reason <> 'error' AND (a.ending IN ('sentence', 'item', 'block')"
    " OR (a.ending = 'phrase' AND (a.finish_reason = 'stop_sequence' OR a.eos_source = 'natural')))"
)
_COUNT = (
    f"UPDATE shards SET complete = (SELECT coalesce(sum(CASE WHEN {_COMPLETE} THEN 1 ELSE 0 END), 0) FROM rows r"
    " JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row AND a.round = r.round AND a.final"
    " WHERE r.job_id = shards.job_id AND r.row >= shards.first_row AND r.row < shards.end_row)"
)
_STORE = "UPDATE attempts SET ending = :ending WHERE job_id = :job AND row = :row AND attempt = :attempt"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("ending", sa.String(16)))
    op.add_column("attempts", sa.Column("trimmed_tokens", sa.Integer, nullable=False, server_default="0"))
    op.add_column("shards", sa.Column("complete", sa.BigInteger, nullable=False, server_default="0"))
    connection = op.get_bind()
    for job, total in connection.execute(sa.text("SELECT id, total FROM jobs")).all():
        for first in range(0, total, _CHUNK):
            _judge(connection, job, first)
    op.execute(_COUNT)


def _judge(connection: sa.Connection, job: str, first: int) -> None:
    """Work out the endings of a job's answers from one row on."""
    found = connection.execute(
        sa.text(
            "SELECT row, attempt, text, finish_reason FROM attempts"
            " WHERE job_id = :job AND row >= :first AND row < :end AND finish_reason <> 'error'"
        ),
        {"job": job, "first": first, "end": first + _CHUNK},
    ).all()
    judged = [
        {
            "job": job,
            "row": row,
            "attempt": attempt,
            "ending": ending_of(text, cut=reason in ("length", "repetition")).value,
        }
        for row, attempt, text, reason in found
    ]
    if judged:
        connection.execute(sa.text(_STORE), judged)
