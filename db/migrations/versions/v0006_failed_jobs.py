"""Jobs: why one has failed as a whole; shards: how long their leases are."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("error", sa.Text))
    op.add_column("shards", sa.Column("lease_seconds", sa.Float(53)))
