"""Attempts: what was thought before the answer, and where each ended; shards: how many ended in a thought."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("reasoning", sa.Text))
    op.add_column("attempts", sa.Column("reasoning_tokens", sa.Integer, nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("ended_in", sa.String(16)))
    op.add_column("attempts", sa.Column("thought_closed", sa.String(16)))
    for name in ("in_reasoning", "reasoning_tokens"):
        op.add_column("shards", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
