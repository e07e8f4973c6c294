"""Shapes: whether an answer is a whole value of its row's shape, and counters of such rows."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("valid", sa.Boolean))
    for name in ("shaped", "valid"):
        op.add_column("shards", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
