"""Attempts: how often each was taken back out of a loop, and tokens that were dropped then."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    for name in ("rewinds", "rewound_tokens"):
        op.add_column("attempts", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
