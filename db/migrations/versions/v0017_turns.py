"""How many shards of a job wait and run, kept in its row by triggers, so that a claim finds its job by an index.

Triggers, because workers of the versions before, which may work on beside newer ones, write shards and know
nothing of these counts. On Postgres they count a statement's changes at once: a job's row is written once, however
many shards are queued or cancelled with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_COUNT = """
UPDATE jobs SET queued_shards = (SELECT count(*) FROM shards s WHERE s.job_id = jobs.id AND s.state = 'queued'),
                running_shards = (SELECT count(*) FROM shards s WHERE s.job_id = jobs.id AND s.state = 'running')
"""
_SQLITE = """
CREATE TRIGGER {name} AFTER {event} ON shards {condition} BEGIN
  UPDATE jobs SET queued_shards = queued_shards + (NEW.state = 'queued'){queued},
                  running_shards = running_shards + (NEW.state = 'running'){running}
  WHERE id = NEW.job_id;
END
"""
_POSTGRES = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE jobs SET queued_shards = queued_shards + d.queued, running_shards = running_shards + d.running
  FROM (SELECT job_id, sum(one * (state = 'queued')::integer) AS queued,
               sum(one * (state = 'running')::integer) AS running
        FROM ({changes}) c GROUP BY job_id) d
  WHERE id = d.job_id AND (d.queued <> 0 OR d.running <> 0);
  RETURN NULL;
END $$;
CREATE TRIGGER {name} AFTER {event} ON shards REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION {name}();
"""
_AFTER = "SELECT job_id, state, 1 AS one FROM after"
_BEFORE = "SELECT job_id, state, -1 AS one FROM before"


def upgrade() -> None:
    for name in ("queued_shards", "running_shards"):
        op.add_column("jobs", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.execute(_COUNT)
    # In the order of turns. The partial ones hold what waits and what runs, not what has ended.
    op.execute(
        "CREATE INDEX jobs_in_turn ON jobs (model, adapter, priority, running_shards, created_at, id) WHERE"
        " queued_shards > 0 AND state IN ('queued', 'running')"
    )
    op.execute("CREATE INDEX shards_held ON shards (worker) WHERE state = 'running'")
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgres()


def _sqlite() -> None:
    op.execute(_SQLITE.format(name="shards_added", event="INSERT", condition="", queued="", running=""))
    op.execute(
        _SQLITE.format(
            name="shards_changed",
            event="UPDATE OF state",
            condition="WHEN NEW.state <> OLD.state",
            queued=" - (OLD.state = 'queued')",
            running=" - (OLD.state = 'running')",
        )
    )


def _postgres() -> None:
    op.execute(_POSTGRES.format(name="shards_added", event="INSERT", changes=_AFTER, tables="NEW TABLE AS after"))
    op.execute(
        _POSTGRES.format(
            name="shards_changed",
            event="UPDATE",
            changes=f"{_AFTER} UNION ALL {_BEFORE}",
            tables="OLD TABLE AS before NEW TABLE AS after",
        )
    )
