"""The next shard of a job is found by an index: its claim costs the same however many shards wait."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_index("shards_in_turn", "shards", ["job_id", "state", "first_row"])
    op.drop_index("shards_of_job", "shards")
