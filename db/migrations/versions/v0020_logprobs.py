"""Attempts: the log probabilities of their tokens, and of the best of each step."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("logprobs", sa.Text))
