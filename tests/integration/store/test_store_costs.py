"""What a claim and the end of a shard read does not grow with the rows of the job."""

import pytest
from sqlalchemy import text

from endmark.db import shards
from endmark.db.workers import list_workers, report_worker
from endmark.jobs.progress import WorkerReport
from tests.integration.service_fixtures import submit

pytestmark = pytest.mark.integration

MANY_WORKERS = 60
FEW, MANY = 1_000, 100_000  # rows, four to a shard


def analyzed(store):
    """Let the planner know the tables, as autovacuum does."""
    with store.writer.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def read_by(store, work):
    """How much of the ledger some work reads: SQLite's own steps, or Postgres' rows and entries of indexes."""
    if store.dialect == "sqlite":
        steps = []
        with store.writer.connect() as connection:
            connection.connection.driver_connection.set_progress_handler(lambda: steps.append(1) and None, 10)
        work()
        return len(steps)
    before = _postgres_reads(store)
    work()
    return _postgres_reads(store) - before


def _postgres_reads(store):
    """Rows and index entries of `shards` and `jobs` that were read so far."""
    with store.writer.begin() as connection:  # of the one connection that writes here
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    tables = "relname IN ('shards', 'jobs')"
    with store.writer.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("SELECT pg_stat_clear_snapshot()"))
        found = connection.execute(
            text(
                f"SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE {tables})"
                f" + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE {tables})"
            )
        ).scalar_one()
    return int(found)


def turn(store):
    """One shard claimed and closed."""
    shards.finish(store, shards.claim(store, worker="w", model="m", adapter=None))


def test_a_turn_reads_as_much_of_a_hundred_thousand_rows_as_of_a_thousand(store):
    """A claim sorted all shards that wait, and the end of one summed up all: 31 and 35 ms with 25,000 of them."""
    submit(store, [""] * FEW, shard_size=4)
    analyzed(store)
    turn(store)
    few = read_by(store, lambda: turn(store))
    with store.writer.begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
    submit(store, [""] * MANY, shard_size=4)
    analyzed(store)
    turn(store)
    many = read_by(store, lambda: turn(store))
    assert 0 < many <= 1.2 * few + 5, (few, many)


def test_the_workers_are_counted_in_one_pass(store):
    """For each worker all running shards were looked at: 500 workers took `status` a fifth of a second."""
    submit(store, [""] * 4 * MANY_WORKERS, shard_size=4)
    for number in range(MANY_WORKERS):
        report_worker(store, WorkerReport(f"h:{number}", "cpu", "m", None, "packed", 1.0))
        shards.claim(store, worker=f"h:{number}", model="m", adapter=None)
    analyzed(store)
    assert [item.shards for item in list_workers(store)] == [1] * MANY_WORKERS
    if store.dialect == "sqlite":
        steps = []
        with store.reader.connect() as connection:
            connection.connection.driver_connection.set_progress_handler(lambda: steps.append(1) and None, 10)
        list_workers(store)
        assert 0 < len(steps) < 100 * MANY_WORKERS / 10  # a hundred steps a worker, not some for each pair
