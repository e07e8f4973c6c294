"""Shards: a counter of answers whose EOS an engine cannot tell whose it was."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("shards", sa.Column("eos_unknown", sa.BigInteger, nullable=False, server_default="0"))
