"""Rows that ask the same as another row of their job, and have its answer."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("same_as", sa.BigInteger))
    op.add_column("shards", sa.Column("deduplicated", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "askers",
        sa.Column("job_id", sa.String(16), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(32), primary_key=True),
        sa.Column("row", sa.BigInteger, nullable=False),
    )
