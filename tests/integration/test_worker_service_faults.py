"""The service when leases are lost, workers are drained, engines break and the ledger is away."""

import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import event, text

from endmark.db.jobs import pause_job
from endmark.db.shards import claim
from endmark.db.workers import list_workers
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import (
    NEVER,
    QUICKLY,
    answer_script,
    gated,
    results,
    shards_of,
    state_of,
    submit,
    wait_until,
)

pytestmark = pytest.mark.integration


def test_a_lease_has_its_length_from_the_claim_on(store, start):
    """A worker killed before its first heartbeat held its shard for the default of 90 seconds."""
    gate, script = gated()
    submit(store, ["x"])
    start(script=script, pace=replace(QUICKLY, lease=5.0, heartbeat=3600.0))
    wait_until(lambda: _lease_until(store))
    assert 0 < _lease_until(store) - time.time() < 6
    gate.set()


def test_a_shard_that_another_worker_has_taken_is_dropped(store, start):
    """A worker stopped for longer than its lease must not write over the one that went on."""
    gate, script = gated()
    job = submit(store, [f"place {row}" for row in range(4)], shard_size=4)
    first = start(script=script, pace=replace(NEVER, heartbeat=3600.0))
    wait_until(lambda: shards_of(store, job) == [("running", 1, 1)])
    with store.writer.begin() as connection:
        connection.execute(text("UPDATE shards SET lease_until = 0"))
    lease = claim(store, worker="other", model="m", adapter=None)
    assert lease.fence == 2
    gate.set()
    wait_until(lambda: first.service._in_flight.shards() == [])
    assert results(store, job) == []
    assert shards_of(store, job) == [("running", 2, 2)]


def test_heartbeats_keep_a_lease_and_notice_its_loss(store, start):
    _, script = gated()
    job = submit(store, ["a"])
    worker = start(script=script, pace=replace(NEVER, reap=3600.0))
    wait_until(lambda: shards_of(store, job) == [("running", 1, 1)])
    assert worker.service.looked.wait(60)  # or the look that goes on puts the lease back by itself
    with store.writer.begin() as connection:
        connection.execute(text("UPDATE shards SET lease_until = 0"))
    wait_until(lambda: _lease_until(store) > 0)
    pause_job(store, job)
    wait_until(lambda: worker.service._in_flight.shards() == [])
    _.set()


def _lease_until(store):
    with store.reader.connect() as connection:
        return connection.execute(text("SELECT lease_until FROM shards")).scalar()


def test_drain_finishes_what_runs_and_claims_no_more(store, start):
    gate, script = gated()
    job = submit(store, ["x"] * 40, shard_size=4)
    worker = start(script=script)
    wait_until(lambda: any(state == "running" for state, _, _ in shards_of(store, job)))
    draining = threading.Thread(target=worker.drain)
    draining.start()
    wait_until(lambda: worker.service.drained)
    gate.set()
    draining.join(60)
    states = [state for state, _, _ in shards_of(store, job)]
    assert set(states) == {"done", "queued"}
    assert len(results(store, job)) == 4 * states.count("done")
    assert list_workers(store) == []


def test_a_drain_out_of_time_stores_what_is_done_and_releases_the_rest(store, start):
    job = submit(store, ["loop", "a", "b", "c"], shard_size=4, max_new_tokens=100_000)
    worker = start(context=100_000, num_pages=50_000)  # for the loop that is minutes
    wait_until(lambda: len(results(store, job)) == 3)
    worker.drain(0.3)
    assert shards_of(store, job) == [("queued", 2, 0)]
    assert [row for row, *_ in results(store, job)] == [1, 2, 3]


def test_hurry_ends_the_grace(store, start):
    _, script = gated()
    submit(store, ["a"])
    worker = start(script=script, pace=replace(QUICKLY, flush=0.2))
    wait_until(lambda: list_workers(store) and list_workers(store)[0].shards == 1)
    draining = threading.Thread(target=worker.drain, args=(3600,))
    draining.start()
    worker.service.hurry()
    draining.join(60)
    assert not draining.is_alive()
    _.set()


def test_a_broken_engine_stores_what_it_had_done_and_ends_the_process(store, start):
    def script(tokens):
        if b"break" in bytes(token - 1 for token in tokens if 0 < token <= 256) and len(tokens) > 40:
            raise RuntimeError("device lost")
        return answer_script(tokens)

    job = submit(store, ["a", "b", "break " + "x" * 30])
    worker = start(script=script, max_rows=2, pace=replace(QUICKLY, heartbeat=3600.0))
    assert worker.broken.wait(60)
    assert [row for row, *_ in results(store, job)] == [0, 1]
    assert shards_of(store, job) == [("running", 1, 1)]  # its lease runs out, and counts as one that killed


def test_a_worker_reports_itself(store, start):
    job = submit(store, ["x"] * 200, shard_size=20)
    start(name="host:77")
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    wait_until(lambda: list_workers(store)[0].tokens_per_second > 0)
    (worker,) = list_workers(store)
    assert (worker.worker, worker.model, worker.device, worker.weights) == ("host:77", "m", "cpu", "packed")


def test_a_woken_worker_runs_what_is_due_of_its_own_queue(store, start):
    worker = start(pace=NEVER)
    assert worker.service.looked.wait(60)
    others = [submit(store, ["x"], model="another"), submit(store, ["x"], adapter="a")]
    job = submit(store, ["x"], shard_size=1)
    worker.service.wake()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert [state_of(store, other) for other in others] == [JobState.QUEUED] * 2


@pytest.mark.parametrize("table", ["attempts", "shards"])
def test_the_ledger_away_for_a_while_costs_nothing_but_time(store, start, caplog, table):
    job = submit(store, [f"place {row}" for row in range(20)], shard_size=4)
    gate, script = gated()
    begun = threading.Event()

    def told(tokens):
        begun.set()
        return script(tokens)

    start(script=told)
    assert begun.wait(60)  # a shard is claimed before its rows are read, and the table must not go in between
    with store.writer.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO away"))
    gate.set()
    wait_until(lambda: "trying again" in caplog.text)
    with store.writer.begin() as connection:
        connection.execute(text(f"ALTER TABLE away RENAME TO {table}"))
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert [row for row, *_ in results(store, job)] == list(range(20))


def test_what_came_while_the_ledger_was_away_is_stored_in_few_commits(store, start, caplog):
    """A commit took 64 rows however many waited, each with its own journeys to the server: 25 µs a row, now 12."""
    rows, ended, commits = 600, [], []
    gate, script = gated()
    begun = threading.Event()

    def told(tokens):
        begun.set()
        token = script(tokens)
        if token == 0:
            ended.append(token)
        return token

    job = submit(store, ["place"] * rows, shard_size=rows)
    start(script=told, max_rows=64, num_pages=2048, prefill_tokens=4000)
    assert begun.wait(60)
    with store.writer.begin() as connection:
        connection.execute(text("ALTER TABLE attempts RENAME TO away"))
    gate.set()
    wait_until(lambda: "trying again" in caplog.text and len(ended) == rows)
    with store.writer.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO attempts"))
    event.listen(
        store.writer,
        "before_cursor_execute",
        lambda connection, cursor, statement, *_: (
            commits.append(statement) if "succeeded + " in statement else None
        ),
    )
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert len(results(store, job)) == rows
    assert len(commits) <= 5
