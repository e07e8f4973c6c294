"""Answers: where their text ends, and what was trimmed; shards: how many are complete."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("ending", sa.String(16)))
    op.add_column("attempts", sa.Column("trimmed_tokens", sa.Integer, nullable=False, server_default="0"))
    op.add_column("shards", sa.Column("complete", sa.BigInteger, nullable=False, server_default="0"))
