"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_COUNTERS = "succeeded failed eos_natural eos_boosted eos_forced stop_sequence repetition length".split()
_COUNTERS += ["prompt_tokens", "completion_tokens"]


def _count(name: str, kind: type[sa.Integer] = sa.Integer) -> "sa.Column[int]":
    return sa.Column(name, kind, nullable=False, server_default="0")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        _count("priority"),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text),
        sa.Column("columns", sa.Text),
        _count("total", sa.BigInteger),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("updated_at", sa.Float(53), nullable=False),
        sa.Column("started_at", sa.Float(53)),
        sa.Column("finished_at", sa.Float(53)),
        sa.Index("jobs_by_state", "state", "model"),
    )
    op.create_table(
        "specs",
        sa.Column("job_id", sa.String(16), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
    )
    op.create_table(
        "rows",
        sa.Column("job_id", sa.String(16), primary_key=True),
        sa.Column("row", sa.BigInteger, primary_key=True),
        _count("round"),
        sa.Column("cells", sa.Text, nullable=False),
    )
    _create_shards()
    _create_attempts()
    op.create_table(
        "workers",
        sa.Column("worker", sa.String(255), primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("weights", sa.Text, nullable=False),
        sa.Column("tokens_per_second", sa.Float(53), nullable=False),
        sa.Column("heartbeat", sa.Float(53), nullable=False),
    )


def _create_shards() -> None:
    op.create_table(
        "shards",
        sa.Column("job_id", sa.String(16), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("shard", sa.Integer, primary_key=True),
        sa.Column("first_row", sa.BigInteger, nullable=False),
        sa.Column("end_row", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        _count("fence"),
        sa.Column("lease_until", sa.Float(53)),
        _count("attempts"),
        sa.Column("worker", sa.Text),
        sa.Column("sent_at", sa.Float(53), nullable=False, server_default="0"),
        sa.Column("updated_at", sa.Float(53)),
        *(_count(name, sa.BigInteger) for name in _COUNTERS),
        sa.Index("shards_by_state", "state", "lease_until"),
        sa.Index("shards_of_job", "job_id", "state"),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(16), primary_key=True),
        sa.Column("row", sa.BigInteger, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.String(16), nullable=False),
        sa.Column("eos_source", sa.String(16)),
        sa.Column("stop_sequence", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("eos_prob_max", sa.Float(53)),
        sa.Column("eos_step_max", sa.Integer),
        sa.Column("eos_rank_max", sa.Integer),
        sa.Column("eos_hidden_steps", sa.Integer, nullable=False),
        sa.Column("eos_probs", sa.LargeBinary),
        sa.Column("strategies", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["job_id", "row"], ["rows.job_id", "rows.row"], ondelete="CASCADE"),
    )
