"""The service over a real ledger and a scripted engine: every row once, whatever happens to its shard."""

import threading

import pytest
from sqlalchemy import text

from endmark.db.jobs import cancel_job, pause_job, resume_job
from endmark.jobs.vocabulary import JobState
from endmark.worker.service import engine_thread
from tests.integration.service_fixtures import (
    ANSWER,
    NEVER,
    answer_script,
    gated,
    results,
    shards_of,
    state_of,
    submit,
    wait_until,
)

pytestmark = pytest.mark.integration


def slowly():
    """A script of long answers, until the event is set."""
    quick = threading.Event()

    def script(tokens):
        quick.wait(0.01)
        return 1 + ord("x") if not quick.is_set() else 0

    return quick, script


def test_every_row_gets_its_answer_and_the_job_ends(store, start):
    job = submit(store, [f"place {row}" for row in range(50)], shard_size=8)
    start()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert results(store, job) == [(row, 1, "eos", ANSWER.decode()) for row in range(50)]
    assert {(state, attempts) for state, _, attempts in shards_of(store, job)} == {("done", 1)}


def test_a_worker_looks_when_it_is_woken_and_goes_on_until_nothing_is_due(store, start):
    worker = start(pace=NEVER)
    assert worker.service.looked.wait(60)
    job = submit(store, ["x"] * 40, shard_size=2)
    worker.service.wake()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert len(results(store, job)) == 40


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


def refusals(service, monkeypatch):
    """Return an event that is set when the engine has, from now on, wanted no rows for a whole wait."""
    sated = threading.Event()
    wait_hungry = service._engine.wait_hungry

    def waited(below, timeout):
        hungry = wait_hungry(below, timeout)
        if not hungry:
            sated.set()
        return hungry

    monkeypatch.setattr(service._engine, "wait_hungry", waited)
    return sated


@pytest.mark.parametrize(("device", "fewest", "most"), [("cpu", 3, 4), ("cuda", 8, 9)])
def test_a_worker_takes_no_more_shards_than_its_engine_wants(store, start, device, fewest, most, monkeypatch):
    """Beside 8 rows with a slot, 4 rows wait for one on a CPU and 24 on a GPU, and those of a last shard."""
    monkeypatch.setattr(engine_thread, "_IDLE", 3600.0)  # an engine that runs dry says so at once
    slow, script = slowly()
    job = submit(store, ["x"] * 80, shard_size=4, max_new_tokens=150)
    worker = start(script=script, pace=NEVER, max_rows=8, device=device)
    wait_until(lambda: sum(state == "running" for state, _, _ in shards_of(store, job)) >= fewest)
    sated = refusals(worker.service, monkeypatch)
    assert sated.wait(60)
    held = sum(state == "running" for state, _, _ in shards_of(store, job))
    assert fewest <= held <= most
    slow.set()
    wait_until(lambda: len(results(store, job)) == 80)


def test_a_worker_without_messages_fills_its_batch(store, start):
    """A look into the ledger claims as many shards as the engine wants, and not one after the other."""
    slow, script = slowly()
    job = submit(store, ["x"] * 80, shard_size=4, max_new_tokens=150)
    start(script=script, pace=NEVER, max_rows=8)
    wait_until(lambda: sum(state == "running" for state, _, _ in shards_of(store, job)) >= 3)
    slow.set()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)


def test_two_workers_share_a_job_and_no_row_is_done_twice(store, start):
    calls = {"a": 0, "b": 0}
    both = threading.Barrier(2)  # neither begins before the other has rows

    def counting(name):
        def script(tokens):
            if not calls[name]:
                both.wait(60)
            calls[name] += 1
            return answer_script(tokens)

        return script

    job = submit(store, [f"place {row}" for row in range(120)], shard_size=4)
    for name in calls:
        start(script=counting(name), name=name)
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert len(results(store, job)) == 120
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
    other = submit(store, ["y"])
    gate.set()
    wait_until(lambda: state_of(store, other) is JobState.COMPLETED)
    assert state_of(store, job) is JobState.PAUSED
    resume_job(store, job)
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert [row for row, *_ in results(store, job)] == list(range(12))
    assert worker.broken.is_set() is False
