"""The probabilities of the labels among which an answer was chosen."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("choice_probs", sa.Text))
