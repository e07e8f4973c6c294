"""No exception without a verdict: a row's fails the row, a job's the job, a thread's ends the process."""

import json
import threading
from dataclasses import replace

import pytest
from sqlalchemy import text

from endmark.db.jobs import fail_job, load_job, pause_job, retry_rows
from endmark.db.progress import job_status
from endmark.db.shards import claim
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import FinishReason, JobState
from tests.integration.service_fixtures import (
    ANSWER,
    NEVER,
    QUICKLY,
    gated,
    results,
    shards_of,
    state_of,
    submit,
    wait_until,
)

pytestmark = pytest.mark.integration
SPEC = json.loads(GenerationSpec(model="m", strategies=build_strategies(())).to_json())


def rewrite_spec(store, job, **changes):
    """Store the job's spec as another version of the program would."""
    with store.writer.begin() as connection:
        connection.execute(
            text("UPDATE specs SET spec = :spec WHERE job_id = :job"),
            {"spec": json.dumps({**SPEC, **changes}), "job": job},
        )


def errors(store, job):
    with store.reader.connect() as connection:
        found = connection.execute(
            text("SELECT row, error FROM attempts WHERE job_id = :job AND final ORDER BY row"), {"job": job}
        )
        return dict(tuple(item) for item in found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "it is of version 2, this program reads version 1"),
        ({"news": True}, "this program does not know `news`"),
        ({"strategies": "land-on-mars"}, "land-on-mars"),
    ],
)
def test_a_job_that_a_worker_cannot_read_fails_at_once_and_starves_no_other(store, start, changes, said):
    """It was claimed and released for ever, and no other job of its model ran."""
    job, other = submit(store, ["x"] * 20, shard_size=2, priority=1), submit(store, ["y"] * 3)
    rewrite_spec(store, job, **changes)
    worker = start(name="host:7")
    wait_until(lambda: state_of(store, other) is JobState.COMPLETED)
    status = job_status(store, job)
    assert (status.state, status.pending, status.failed) == (JobState.FAILED, 20, 0)
    assert status.error.startswith("worker host:7 cannot run it: the job's spec was written by another version")
    assert said in status.error
    assert {attempts for _, _, attempts in shards_of(store, job)} == {0}
    rewrite_spec(store, job)  # as if the worker had been upgraded
    retry_rows(store, job, spec=load_job(store, job).spec, reasons=[FinishReason.ERROR])
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    assert len(results(store, job)) == 20
    assert not worker.broken.is_set()


def test_an_exception_between_a_claim_and_the_engine_is_told_and_kills_nobody(store, start, monkeypatch):
    """Its rows ended as `the worker died on this row 3 times`, and no worker had died."""
    job, other = submit(store, ["x"] * 4, shard_size=2, priority=1), submit(store, ["y"] * 3)
    worker = start(pace=NEVER)
    wait_until(lambda: state_of(store, other) is JobState.COMPLETED)
    fresh = submit(store, ["x"] * 4, shard_size=2, priority=1)
    rows = worker.service._claims._feeder.rows

    def broken(lease):
        if lease.key.job_id == fresh:
            raise ZeroDivisionError("made up")
        return rows(lease)

    monkeypatch.setattr(worker.service._claims._feeder, "rows", broken)
    worker.service.wake()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED and state_of(store, fresh) is JobState.FAILED)
    assert job_status(store, fresh).error.endswith("cannot run it: ZeroDivisionError: made up")
    assert {(state, attempts) for state, _, attempts in shards_of(store, fresh)} == {("queued", 0)}
    assert worker.service._in_flight.shards() == []


@pytest.mark.parametrize("where", ["prompt", "request", "engine", "answer", "follow-up", "ledger"])
def test_the_exception_of_one_row_fails_that_row_alone(store, start, monkeypatch, where):
    """The writer's thread ended of it: leases were prolonged for ever, and every job hung."""
    bad = f"{where} goes wrong"
    job = submit(store, ["fine", bad, "also fine"], strategies=["continue:times=1"], max_new_tokens=100)
    break_row(monkeypatch, where, bad)
    worker = start()
    wait_until(lambda: state_of(store, job).is_final or worker.broken.is_set())
    assert state_of(store, job) is JobState.COMPLETED_WITH_ERRORS
    assert [reason for _, _, reason, _ in results(store, job)] == ["eos", "error", "eos"]
    assert "made up" in errors(store, job)[1]
    assert results(store, job)[2][3] == ANSWER.decode()
    assert not worker.broken.is_set()


def break_row(monkeypatch, where, bad):
    """Let one part raise for the one row."""
    from endmark.jobs.prompts import PromptPlan
    from endmark.worker.engine.engine import Engine
    from endmark.worker.service import writer
    from endmark.worker.service.rows import RowRun

    def of_row(run):
        return run.row.cells == (bad,)

    def text_of(request):
        return bytes(token - 1 for token in request.prompt_token_ids if 0 < token <= 256)

    def raising(whole, concerns):
        def part(*arguments, **options):
            if concerns(*arguments, **options):
                raise ZeroDivisionError("made up")
            return whole(*arguments, **options)

        return part

    owner, name, concerns = {
        "prompt": (PromptPlan, "read", lambda _, cells: tuple(cells) == (bad,)),
        "request": (RowRun, "first_request", lambda run, _: of_row(run)),
        "engine": (Engine, "add", lambda _, request: bad.encode() in text_of(request)),
        "answer": (RowRun, "outcome", of_row),
        "follow-up": (RowRun, "next_request", lambda run, *_: of_row(run)),
        "ledger": (writer, "commit", lambda _, lease, outcomes: any(
            item.attempts[-1].row == 1 and item.attempts[-1].verdict.error is None for item in outcomes
        )),
    }[where]  # fmt: skip
    monkeypatch.setattr(owner, name, raising(getattr(owner, name), concerns))


@pytest.mark.parametrize("thread", ["engine", "writer", "heartbeat", "watchdog", "look", "report", "reaper"])
@pytest.mark.parametrize("error", [ZeroDivisionError("made up"), SystemExit("made up")])
def test_each_thread_that_raises_is_seen(store, start, monkeypatch, caplog, thread, error):
    """What no worker can do without ends the process with the reason; what it can goes on, told in the log."""
    gate, script = gated()
    job = submit(store, ["x"] * 4)
    worker = start(script=script, pace=NEVER)
    wait_until(lambda: [state for state, *_ in shards_of(store, job)] == ["running"])
    break_thread(worker.service, monkeypatch, thread, error)
    gate.set()
    goes_on = thread in ("look", "report", "reaper") and isinstance(error, Exception)
    if goes_on:
        wait_until(lambda: f"{thread}: a bug in Endmark" in caplog.text)
        wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
        assert not worker.broken.is_set()
    else:
        assert worker.broken.wait(60)
        assert worker.reason.startswith(f"its {thread} broke: ")
        assert "made up" in worker.reason
    assert "made up" in caplog.text


def break_thread(service, monkeypatch, thread, error):
    """Let the work of one thread raise from now on."""

    def raising(*_, **__):
        raise error

    if thread == "engine":
        monkeypatch.setattr(service._engine._engine, "step", raising)
    elif thread == "writer":
        monkeypatch.setattr(service._writer, "_flush", raising)
    elif thread == "watchdog":
        monkeypatch.setattr(service._watchdog, "_step_began", raising)
        monkeypatch.setattr(service._watchdog, "_interval", 0.01)
    else:
        (periodic,) = [item for item in service._periodic if item._name == thread]
        monkeypatch.setattr(periodic, "_action", raising)
        monkeypatch.setattr(periodic, "_interval", 0.01)


@pytest.mark.parametrize("thread", ["engine", "writer", "heartbeat", "look", "report", "reaper", "watchdog"])
def test_a_thread_that_has_ended_is_noticed(store, start, monkeypatch, thread):
    """Whoever watches the threads is watched himself."""
    worker = start(pace=QUICKLY)
    service = worker.service
    wait_until(lambda: service._watchdog.thread.is_alive())
    watched = {"engine": service._engine, "writer": service._writer, "watchdog": service._watchdog}
    watched |= {item._name: item for item in service._periodic}
    ended = threading.Thread(target=lambda: None, name=thread)
    ended.start()
    ended.join()
    whole = watched[thread].thread
    monkeypatch.setattr(watched[thread], "thread", ended)
    try:
        assert worker.broken.wait(60)
        assert worker.reason == f"its {thread} broke: ThreadEnded: it has ended"
    finally:
        monkeypatch.setattr(watched[thread], "thread", whole)


def test_a_heartbeat_drops_the_shard_that_is_lost(store, start):
    """It kept it, and the rows went on to be computed for nobody."""
    gate, script = gated()
    job = submit(store, ["a"])
    worker = start(script=script, pace=replace(NEVER, reap=3600.0))
    wait_until(lambda: len(worker.service._in_flight.shards()) == 1)
    pause_job(store, job)
    wait_until(lambda: worker.service._in_flight.shards() == [])
    gate.set()
    assert results(store, job) == []


def test_a_worker_that_has_run_a_job_runs_its_retried_rows(store, start):
    """It knew the job without its newest round, and failed with a KeyError."""
    job = submit(store, ["loop", "fine"], max_new_tokens=5)
    worker = start()
    wait_until(lambda: state_of(store, job) is JobState.COMPLETED)
    spec = replace(load_job(store, job).spec, max_new_tokens=50)
    retry_rows(store, job, spec=spec, reasons=[FinishReason.LENGTH])
    wait_until(lambda: state_of(store, job).is_final)
    assert state_of(store, job) is JobState.COMPLETED
    assert [(row, number, reason) for row, number, reason, _ in results(store, job)][-1][1:] == (2, "eos")
    assert not worker.broken.is_set()


def test_a_lease_is_released_when_the_ledger_cannot_say_that_the_job_failed(store, start, monkeypatch):
    """Else it ran out 90 seconds later, and counted as one that killed its worker."""
    from endmark.jobs.errors import StoreError
    from endmark.worker.service import claims

    job = submit(store, ["x"])
    rewrite_spec(store, job, version=2)
    tries = []

    def away(*arguments):
        tries.append(1)
        if len(tries) == 1:
            raise StoreError("no room")
        return fail_job(*arguments)

    monkeypatch.setattr(claims, "fail_job", away)
    start()
    wait_until(lambda: job_status(store, job).state is JobState.FAILED)
    assert [attempts for _, _, attempts in shards_of(store, job)] == [0]
    assert claim(store, worker="other", model="m", adapter=None) is None
