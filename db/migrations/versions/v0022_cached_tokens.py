"""Prompt tokens that had been computed for other rows."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("cached_tokens", sa.Integer, nullable=False, server_default="0"))
    op.add_column("shards", sa.Column("cached_tokens", sa.BigInteger, nullable=False, server_default="0"))
