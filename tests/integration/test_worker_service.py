"""The service over a real ledger and a scripted engine: every row once, whatever happens to its shard."""

import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import text

from db.connection import open_store
from db.jobs import cancel_job, load_job, pause_job, resume_job
from db.shards import claim
from db.workers import list_workers
from jobs.vocabulary import JobState
from tests.integration.service_fixtures import (
    ANSWER,
    QUICKLY,
    Worker,
    answer_script,
    results,
    shards_of,
    submit,
    wait_until,
)

pytestmark = pytest.mark.integration

NEVER = replace(QUICKLY, look=3600.0)


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


@pytest.fixture
def start(store):
    """Start workers; drain at the end those that still run."""
    started = []

    def make(**options):
        started.append(Worker(store, **options))
        return started[-1]

    yield make
    for worker in started:
        if not worker.service.drained:
            worker.drain(0)


def state_of(store, job):
    return load_job(store, job).state


def gated():
    """A script that waits for a gate before each token."""
    gate = threading.Event()

    def script(tokens):
        gate.wait()
        return answer_script(tokens)

    return gate, script


def test_every_row_gets_its_answer_and_the_job_ends(store, start):
    job = submit(store, [f"place {row}" for row in range(50)], shard_size=8)
    start()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert results(store, job) == [(row, 1, "eos", ANSWER.decode()) for row in range(50)]
    assert {(state, attempts) for state, _, attempts in shards_of(store, job)} == {("done", 1)}


def test_a_call_runs_one_shard_and_says_when_none_is_due(store, start):
    job = submit(store, ["a", "b", "c"], shard_size=2)
    worker = start(pace=NEVER)
    assert worker.service.run_next_shard()
    assert len(results(store, job)) in (2, 3)
    while worker.service.run_next_shard():
        pass
    assert state_of(store, job) is JobState.COMPLETED
    assert not worker.service.run_next_shard()


def test_rows_that_cannot_run_fail_alone(store, start):
    job = submit(store, ["fine", "refuse me", "long " * 50, "fine too"])
    start()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED_WITH_ERRORS)
    assert [reason for _, _, reason, _ in results(store, job)] == ["eos", "error", "error", "eos"]
    with store.reader.connect() as connection:
        errors = connection.execute(
            text("SELECT error FROM attempts WHERE error IS NOT NULL ORDER BY row")
        ).scalars()
        refused, long = errors
    assert "no such turn" in refused
    assert "context holds 200" in long


def test_all_attempts_of_a_row_are_kept_and_the_last_is_its_result(store, start):
    job = submit(store, ["loop", "fine"], strategies=["continue:times=2"], max_new_tokens=5)
    start()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert results(store, job) == [(0, 3, "length", "x" * 15), (1, 3, "length", ANSWER.decode()[:15])]
    with store.reader.connect() as connection:
        stored = connection.execute(
            text("SELECT row, attempt, final, text FROM attempts ORDER BY row, attempt")
        ).all()
    assert [(row, attempt, bool(final)) for row, attempt, final, _ in stored] == [
        (row, attempt, attempt == 3) for row in (0, 1) for attempt in (1, 2, 3)
    ]
    assert [len(item.text) for item in stored] == [5, 10, 15] * 2


def test_a_continuation_without_room_leaves_the_row_as_it_was(store, start):
    job = submit(store, ["loop"], strategies=["continue:times=50"], max_new_tokens=100)
    start()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    ((_, attempts, reason, answer),) = results(store, job)
    prompt = len("[user]loop[assistant]") + 1
    assert (attempts, reason, len(answer)) == (2, "length", 200 - prompt)


def test_a_worker_takes_no_more_shards_than_its_engine_wants(store, start):
    slow = threading.Event()

    def script(tokens):
        slow.wait(0.01)
        return 1 + ord("x") if not slow.is_set() else 0

    job = submit(store, ["x"] * 80, shard_size=4, max_new_tokens=150)
    worker = start(script=script, pace=NEVER, max_rows=8)
    tasks = [threading.Thread(target=worker.service.run_next_shard) for _ in range(10)]
    for task in tasks:
        task.start()
    time.sleep(0.5)
    held = sum(state == "running" for state, _, _ in shards_of(store, job))
    assert 3 <= held <= 4  # 8 rows with a slot, and at most 4 + 3 that wait for one
    slow.set()
    began = time.monotonic()
    for task in tasks:
        task.join(10)
    assert time.monotonic() - began < 1.5  # an engine that runs dry says so at once
    assert len(results(store, job)) >= 40


def test_two_workers_share_a_job_and_no_row_is_done_twice(store, start):
    calls = {"a": 0, "b": 0}

    def counting(name):
        def script(tokens):
            calls[name] += 1
            time.sleep(0.0005)
            return answer_script(tokens)

        return script

    job = submit(store, [f"place {row}" for row in range(120)], shard_size=4)
    for name in calls:
        start(script=counting(name), name=name)
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert len(results(store, job)) == 120
    assert all(calls.values())
    assert sum(calls.values()) == 120 * (len(ANSWER) + 1)


def test_a_cancelled_job_stops_and_keeps_what_is_done(store, start):
    gate, script = gated()
    job = submit(store, ["x"] * 20, shard_size=10)
    other = submit(store, ["y"] * 3)
    start(script=script)
    wait_until(lambda: any(state == "running" for state, _, _ in shards_of(store, job)))
    cancel_job(store, job)
    gate.set()
    wait_until(lambda: state_of(store, other) is JobState.COMPLETED)
    assert results(store, job) == []
    assert state_of(store, job) is JobState.CANCELLED


def test_a_paused_job_goes_on_where_it_stood(store, start):
    gate, script = gated()
    job = submit(store, [f"place {row}" for row in range(12)], shard_size=4)
    worker = start(script=script)
    wait_until(lambda: any(state == "running" for state, _, _ in shards_of(store, job)))
    pause_job(store, job)
    gate.set()
    time.sleep(0.5)
    assert state_of(store, job) is JobState.PAUSED
    resume_job(store, job)
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert [row for row, *_ in results(store, job)] == list(range(12))
    assert worker.broken.is_set() is False


def test_a_shard_that_another_worker_has_taken_is_dropped(store, start):
    """A worker stopped for longer than its lease must not write over the one that went on."""
    gate, script = gated()
    job = submit(store, [f"place {row}" for row in range(4)], shard_size=4)
    first = start(script=script, pace=replace(NEVER, heartbeat=3600.0))
    task = threading.Thread(target=first.service.run_next_shard)
    task.start()
    wait_until(lambda: shards_of(store, job) == [("running", 1, 1)])
    with store.writer.begin() as connection:
        connection.execute(text("UPDATE shards SET lease_until = 0"))
    lease = claim(store, worker="other", model="m", adapter=None)
    assert lease.fence == 2
    gate.set()
    task.join(10)
    assert not task.is_alive()
    assert results(store, job) == []
    assert shards_of(store, job) == [("running", 2, 2)]


def test_heartbeats_keep_a_lease_and_notice_its_loss(store, start):
    _, script = gated()
    job = submit(store, ["a"])
    worker = start(script=script, pace=NEVER)
    task = threading.Thread(target=worker.service.run_next_shard, daemon=True)
    task.start()
    wait_until(lambda: shards_of(store, job) == [("running", 1, 1)])
    with store.writer.begin() as connection:
        connection.execute(text("UPDATE shards SET lease_until = 0"))
    wait_until(lambda: _lease_until(store) > 0)
    pause_job(store, job)
    task.join(10)
    assert not task.is_alive()
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
    time.sleep(0.2)
    gate.set()
    draining.join(10)
    states = [state for state, _, _ in shards_of(store, job)]
    assert set(states) == {"done", "queued"}
    assert len(results(store, job)) == 4 * states.count("done")
    assert not worker.service.run_next_shard()
    assert list_workers(store) == []


def test_a_drain_out_of_time_stores_what_is_done_and_releases_the_rest(store, start):
    def script(tokens):
        time.sleep(0.002)
        return answer_script(tokens)

    job = submit(store, ["loop", "a", "b", "c"], shard_size=4, max_new_tokens=100_000)
    worker = start(script=script, context=100_000, num_pages=50_000)
    wait_until(lambda: len(results(store, job)) == 3)
    began = time.monotonic()
    worker.drain(0.3)
    assert time.monotonic() - began < 3
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
    draining.join(10)
    assert not draining.is_alive()
    _.set()


def test_a_broken_engine_stores_what_it_had_done_and_ends_the_process(store, start):
    def script(tokens):
        if b"break" in bytes(token - 1 for token in tokens if 0 < token <= 256) and len(tokens) > 40:
            raise RuntimeError("device lost")
        return answer_script(tokens)

    job = submit(store, ["a", "b", "break " + "x" * 30])
    worker = start(script=script, max_rows=2, pace=replace(QUICKLY, heartbeat=3600.0))
    assert worker.broken.wait(10)
    assert [row for row, *_ in results(store, job)] == [0, 1]
    assert shards_of(store, job) == [("running", 1, 1)]  # its lease runs out, and counts as one that killed


def test_a_worker_reports_itself(store, start):
    job = submit(store, ["x"] * 200, shard_size=20)
    start(name="host:77")
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    wait_until(lambda: list_workers(store)[0].tokens_per_second > 0)
    (worker,) = list_workers(store)
    assert (worker.worker, worker.model, worker.device, worker.weights) == ("host:77", "m", "cpu", "packed")


def test_shards_without_a_message_are_rung_for_but_not_those_of_other_models(store, start):
    job = submit(store, ["x"], model="m")
    submit(store, ["x"], model="another")
    pause_job(store, job)
    worker = start(pace=NEVER)
    wait_until(lambda: list_workers(store))
    time.sleep(0.2)  # its first look into the ledger is over
    resume_job(store, job)
    wait_until(lambda: worker.rung)
    assert {key.job_id for key in worker.rung} == {job}


@pytest.mark.parametrize("table", ["attempts", "shards"])
def test_the_ledger_away_for_a_while_costs_nothing_but_time(store, start, caplog, table):
    job = submit(store, [f"place {row}" for row in range(20)], shard_size=4)
    gate, script = gated()
    start(script=script)
    wait_until(lambda: any(state == "running" for state, _, _ in shards_of(store, job)))
    with store.writer.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO away"))
    gate.set()
    wait_until(lambda: "trying again" in caplog.text)
    with store.writer.begin() as connection:
        connection.execute(text(f"ALTER TABLE away RENAME TO {table}"))
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert [row for row, *_ in results(store, job)] == list(range(20))
