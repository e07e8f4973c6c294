"""What a claim and the end of a shard read grows neither with the rows of a job nor with the jobs that wait."""

import re
import threading

import pytest
from sqlalchemy import event, text

from endmark.db import shards
from endmark.db.export import stream_results
from endmark.db.rows import UNFINISHED
from endmark.db.workers import list_workers, report_worker
from endmark.jobs.progress import WorkerReport
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import answer, execute, rows_of, take

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
    """Rows and index entries that were read so far."""
    with store.writer.begin() as connection:  # of the one connection that writes here
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    tables = "relname IN ('shards', 'jobs', 'attempts')"
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
    execute(store, "DELETE FROM jobs")
    submit(store, [""] * MANY, shard_size=4)
    analyzed(store)
    turn(store)
    many = read_by(store, lambda: turn(store))
    assert 0 < many <= 1.2 * few + 5, (few, many)


def test_a_shards_rows_are_found_beside_its_own_attempts_alone(store):
    """Postgres, with statistics of before, walked all of the job's attempts: 100 ms behind 56,000 answers."""
    rows, size = 8_000, 100
    submit(store, [""] * rows, shard_size=size)
    analyzed(store)
    last = {"job": rows_of(store, "SELECT id FROM jobs")[0][0], "first": rows - size, "end": rows}

    def look():
        with store.writer.connect() as connection:
            assert len(connection.execute(text(UNFINISHED), last).all()) == size

    few = read_by(store, look)
    while (lease := take(store)) is not None and lease.first_row < rows - size:
        answer(store, lease)
    many = read_by(store, look)
    assert many <= 1.2 * few + 5, (few, many)


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


def many_jobs(store, count, *, adapter=None, priorities=3):
    """Jobs of two queued shards each and several priorities, stored past Endmark in two statements."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    with store.writer.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, name, state, priority, model, adapter, columns, created_at, updated_at)"
                f" {numbers} SELECT 'j' || i, 'j', 'queued', i % {priorities}, 'm', :adapter, '[]', i, i FROM n"
            ),
            {"adapter": adapter},
        )
        for shard in range(2):
            connection.execute(
                text(
                    "INSERT INTO shards (job_id, shard, first_row, end_row, state)"
                    f" {numbers} SELECT 'j' || i, {shard}, {shard}, {shard + 1}, 'queued' FROM n"
                )
            )


@pytest.mark.parametrize("adapter", [None, "a"])
def test_a_claim_reads_as_much_of_thousands_of_waiting_jobs_as_of_ten(store, adapter):
    """Each waiting job of the model was asked whether it has a due shard: 8 to 15 ms with 1,000 of them."""

    def claim():
        assert shards.claim(store, worker="w", model="m", adapter=adapter).key.job_id.startswith("j")

    reads = []
    for count in (10, 4_000):
        execute(store, "DELETE FROM jobs")
        many_jobs(store, count, adapter=adapter)
        analyzed(store)
        claim()
        reads.append(read_by(store, claim))
    assert 0 < reads[1] <= 1.2 * reads[0] + 5, reads


def plans(store, work, tables=("shards", "jobs"), *, reads=False):
    """How the database goes about each statement of some work on tables, in its own words.

    Args:
        reads: of what only reads, for what writes.
    """
    seen = []
    engine = store.reader if reads else store.writer

    def note(connection, cursor, statement, parameters, context, many):
        if any(table in statement for table in tables):
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    work()
    event.remove(engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if store.dialect == "sqlite" else "EXPLAIN "
    found = []
    with store.reader.connect() as connection:
        for statement, parameters in seen:
            lines = connection.exec_driver_sql(explain + statement, parameters).all()
            found.append(statement + "\n" + "\n".join(str(line[-1]) for line in lines))
    return found


@pytest.mark.parametrize("adapter", [None, "a"])
def test_a_claim_walks_no_table_and_sorts_nothing(store, adapter):
    many_jobs(store, 3_000, adapter=adapter)
    execute(store, "UPDATE shards SET state = 'running', worker = job_id, lease_until = 9e9 WHERE shard = 1")
    analyzed(store)
    found = plans(store, lambda: shards.claim(store, worker="w", model="m", adapter=adapter))
    assert len(found) >= 5
    for plan in found:
        assert not re.search(r"\bSCAN\b|TEMP B-TREE|Seq Scan|\bSort\b|Bitmap", plan), plan
    assert sum(plan.count(" jobs_in_turn") for plan in found) == 2
    assert sum("shards_in_turn" in plan for plan in found) == 1
    assert sum("shards_held" in plan for plan in found) == 1


def test_an_export_reads_its_batches_by_key(store):
    """Each row's last attempt was looked up by a query of its own; and SQLite, once the range of both tables was
    named for Postgres, read a batch's attempts for each of its rows: 44 µs a row for 4.5."""
    rows = 20_000
    job = submit(store, [""] * rows, shard_size=1000)
    execute(
        store,
        "INSERT INTO attempts (job_id, row, attempt, round, final, text, finish_reason, eos_source, strategies,"
        " prompt_tokens, completion_tokens, eos_hidden_steps)"
        " SELECT job_id, row, 1, 0, true, 'Yes.', 'eos', 'natural', 'baseline', 9, 3, 0 FROM rows",
    )
    analyzed(store)
    found = plans(store, lambda: next(stream_results(store, job)), ("attempts",), reads=True)
    assert len(found) >= 1
    for plan in found:
        assert not re.search(r"\bSCAN\b|TEMP B-TREE|Seq Scan|SubPlan|row>\? AND row<\?\) LEFT-JOIN", plan), plan


def test_an_export_that_is_given_up_reads_no_further(store):
    """On Postgres the next batch was being read by a thread when its connection was closed."""
    job = submit(store, ["x"] * 4000, shard_size=1000)
    for _ in range(20):
        results = stream_results(store, job)
        assert next(results).row == 0
        results.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("export")]


def test_the_counts_of_queued_and_running_shards_follow_their_shards(store):
    """By triggers: a worker of the version before writes shards and knows nothing of the counts."""
    one, two = submit(store, ["x"] * 8, shard_size=2), submit(store, ["x"] * 4, shard_size=2)

    def counts():
        found = rows_of(store, "SELECT id, queued_shards, running_shards FROM jobs")
        return {job: (queued, running) for job, queued, running in found}

    assert counts() == {one: (4, 0), two: (2, 0)}
    first, second = (shards.claim(store, worker="w", model="m", adapter=None) for _ in range(2))
    assert counts() == {one: (3, 1), two: (1, 1)}
    execute(store, "UPDATE shards SET succeeded = 2 WHERE state = 'running' AND job_id = :job", job=one)
    assert shards.finish(store, first)
    shards.release(store, second)
    assert counts() == {one: (3, 0), two: (2, 0)}
    execute(store, "UPDATE shards SET state = 'running' WHERE state = 'queued' AND shard <> 2")  # of both jobs
    assert counts() == {one: (1, 2), two: (0, 2)}
    execute(store, "UPDATE shards SET lease_until = 5")
    execute(store, "DELETE FROM jobs WHERE id = :job", job=two)
    assert counts() == {one: (1, 2)}
