"""How long devices have worked for a job."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("device_seconds", sa.Float(53), nullable=False, server_default="0"))
