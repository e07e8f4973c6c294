"""Postgres: attempts go with their rows by a trigger of one statement, not by a foreign key.

The key was looked up, and its row of `rows` locked and written again, for each attempt that was stored: a sixth of
the server's time and of its log. A worker stores attempts only under a lease, and no job with a lease is deleted.
SQLite, which has no such lock, keeps the key: without it the table would have to be written anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"

_TRIGGER = """
CREATE FUNCTION rows_deleted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  DELETE FROM attempts a USING before b WHERE a.job_id = b.job_id AND a.row = b.row;
  RETURN NULL;
END $$;
CREATE TRIGGER rows_deleted AFTER DELETE ON rows REFERENCING OLD TABLE AS before
FOR EACH STATEMENT EXECUTE FUNCTION rows_deleted();
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    for key in sa.inspect(op.get_bind()).get_foreign_keys("attempts"):
        op.drop_constraint(str(key["name"]), "attempts", type_="foreignkey")
    op.execute(_TRIGGER)
