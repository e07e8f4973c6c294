"""Rows: which of several answers of one prompt each is."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("rows", sa.Column("sample", sa.Integer))
