"""Which older programs can use the ledger: hosts of a fleet are upgraded one at a time."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table("compatibility", sa.Column("oldest", sa.String(16), primary_key=True))
