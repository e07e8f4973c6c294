"""Workers: the bytes of their weights and the tokens that their KV caches hold."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("weight_bytes", "kv_tokens"):
        op.add_column("workers", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
