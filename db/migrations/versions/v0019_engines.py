"""The engine that each worker runs, and the weights with which each answer was computed."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("workers", sa.Column("engine", sa.String(16), nullable=False, server_default="endmark"))
    op.add_column("attempts", sa.Column("weights", sa.String(64)))
