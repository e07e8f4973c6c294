"""Jobs that fail as a whole, dead workers that are buried, clocks that are put back, claims beside others."""

import json
import sqlite3
import threading
from contextlib import closing

import pytest
from sqlalchemy import text

from endmark.db.attempts import commit
from endmark.db.counting import recount
from endmark.db.finetunings import add_finetuning, claim_finetuning, due_finetuning
from endmark.db.jobs import cancel_job, fail_job, load_job, retry_rows
from endmark.db.progress import all_statuses, job_status
from endmark.db.reaper import reap
from endmark.db.shards import finish, heartbeat
from endmark.db.workers import bury_worker, list_workers, report_worker
from endmark.jobs.errors import LeaseLost
from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.jobs.progress import WorkerReport
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import FinishReason, JobState, Outcome, ShardKey
from tests.integration.service_fixtures import shards_of, submit
from tests.integration.store.ledger import (
    answer,
    answer_all,
    attempt,
    counters,
    execute,
    outcome,
    recounted,
    rows_of,
    take,
)

pytestmark = pytest.mark.integration
HOUR = 3600.0
SPEC = GenerationSpec(model="m")
FAILED = (FinishReason.ERROR,)


def clock_back(store):
    """What was written before looks as if it was written an hour from now."""
    for table, column in (("shards", "lease_until"), ("finetunings", "lease_until"), ("workers", "heartbeat")):
        execute(store, f"UPDATE {table} SET {column} = {column} + :hour", hour=HOUR)


def test_a_job_that_fails_says_why_and_runs_again_when_it_is_retried(store):
    """A job that no worker could read was claimed and released for ever, and no other job of its model ran."""
    job = submit(store, ["x"] * 6, shard_size=2)
    other = submit(store, ["y"], priority=-1)
    answer(store, take(store))
    held, beside = take(store, "host:1"), take(store, "host:2")
    fail_job(store, held, "it is of version 9")
    status = job_status(store, job)
    assert (status.state, status.error) == (JobState.FAILED, "it is of version 9")
    assert (status.succeeded, status.pending, status.running) == (2, 4, 0)
    assert [item.error for item in all_statuses(store)] == [None, "it is of version 9"]
    lease = take(store)
    assert lease.key.job_id == other
    answer(store, lease)
    with pytest.raises(LeaseLost):
        commit(store, beside, [outcome(beside.first_row)])
    assert [(state, attempts) for state, _, attempts in shards_of(store, job)] == [
        ("done", 1),
        ("queued", 0),
        ("queued", 0),
    ]  # nobody died of it
    assert retry_rows(store, job, spec=SPEC, reasons=FAILED) == [ShardKey(job, 1), ShardKey(job, 2)]
    assert (job_status(store, job).state, job_status(store, job).error) == (JobState.QUEUED, None)
    assert answer_all(store) == [2, 3, 4, 5]
    assert load_job(store, job).state is JobState.COMPLETED
    assert counters(store, job) == recounted(store, job)


@pytest.mark.parametrize(("failed", "again"), [(False, [0, 1, 2]), (True, [0, 1, 2, 3, 4, 5])])
def test_rows_that_never_ran_are_asked_again_with_the_failed_ones_where_their_job_has_failed(store, failed, again):
    """Of one that was cancelled they stay as they are: its user has given them up."""
    job = submit(store, ["x"] * 6, shard_size=3)
    answer(store, take(store), "error")
    if failed:
        fail_job(store, take(store), "it is of version 9")
    else:
        cancel_job(store, job)
    retry_rows(store, job, spec=SPEC, reasons=[FinishReason.ERROR])
    assert answer_all(store) == again
    assert counters(store, job) == recounted(store, job)


def test_who_holds_the_job_no_longer_cannot_let_it_fail(store):
    job = submit(store, ["x"] * 2)
    late = take(store, "host:1")
    execute(store, "UPDATE shards SET lease_until = 0")
    lease = take(store, "host:2")
    fail_job(store, late, "too late")
    assert job_status(store, job).state is JobState.RUNNING
    answer(store, lease)
    fail_job(store, lease, "too late, too")
    assert (job_status(store, job).state, job_status(store, job).error) == (JobState.COMPLETED, None)


def test_a_job_that_a_newer_program_wrote_does_not_hide_the_others(store):
    """One unreadable spec made `status` fail for every job."""
    newer, job = submit(store, ["x"]), submit(store, ["x"])
    spec = {**json.loads(SPEC.to_json()), "version": 99}
    execute(store, "UPDATE specs SET spec = :spec WHERE job_id = :job", spec=json.dumps(spec), job=newer)
    assert {item.id: bool(item.strategies) for item in all_statuses(store)} == {newer: False, job: True}


def test_what_a_dead_process_held_is_due_at_once(store):
    """Until its leases ran out `status` said `458 tokens/s, 0:07 left`, 75 seconds long."""
    job = submit(store, ["x"] * 6, shard_size=2)
    finetuning = add_finetuning(store, FinetuneSpec(dataset="/d", output="/o", model="m"))
    for name in ("host:1", "host:2"):
        report_worker(store, WorkerReport(name, "cpu", "m", None, "packed", 458.0))
    first, second = take(store, "host:1"), take(store, "host:2")
    assert claim_finetuning(store, finetuning, model="m", worker="host:1") is not None
    assert due_finetuning(store, "m") is None
    bury_worker(store, "host:1")
    reap(store)
    assert [item.worker for item in list_workers(store)] == ["host:2"]
    assert due_finetuning(store, "m") == finetuning
    assert [state for state, *_ in shards_of(store, job)] == ["queued", "running", "queued"]
    assert heartbeat(store, [first, second]) == {first}
    assert take(store, "host:3").attempts == 2  # the claim counts as one that died


def test_a_clock_put_back_does_not_keep_a_dead_worker_alive(store):
    """With the clock one hour back its shard was stuck for that hour, and it was shown as alive."""
    job = submit(store, ["x"] * 4, shard_size=2)
    finetuning = add_finetuning(store, FinetuneSpec(dataset="/d", output="/o", model="m"))
    report_worker(store, WorkerReport("host:1", "cpu", "m", None, "packed", 1.0))
    dead, alive = take(store, "host:1"), take(store, "host:2")
    assert claim_finetuning(store, finetuning, model="m", worker="host:1") is not None
    clock_back(store)
    assert list_workers(store) == []
    assert due_finetuning(store, "m") == finetuning
    assert heartbeat(store, [alive]) == set()  # who lives has a lease of now again
    reap(store)
    assert [state for state, *_ in shards_of(store, job)] == ["queued", "running"]
    clock_back(store)
    assert take(store, "host:3").key == dead.key  # a claim needs no reaper


@pytest.mark.parametrize("seconds", [0.5, 90.0, 600.0])
def test_a_lease_of_any_length_is_good_until_its_end(store, seconds):
    """A lease that is longer than the default is no lease of before the clock was put back."""
    job = submit(store, ["x"])
    lease = take(store, lease_seconds=seconds + 5)
    reap(store)
    assert heartbeat(store, [lease], lease_seconds=seconds + 5) == set()
    reap(store)
    assert [state for state, *_ in shards_of(store, job)] == ["running"]


def test_both_halves_have_their_own_counters(store):
    """One half had kept those of the whole, beside rows that had finished out of order."""
    job = submit(store, ["x"] * 8, shard_size=8)
    for _ in range(3):
        lease = take(store)
        execute(store, "UPDATE shards SET lease_until = 0")
    with store.writer.begin() as connection:
        connection.execute(text("UPDATE shards SET lease_until = 9e9, lease_seconds = 9e9"))
    commit(store, lease, [outcome(row) for row in (0, 6, 7)])
    execute(store, "UPDATE shards SET lease_until = 0")
    reap(store)
    found = rows_of(
        store,
        "SELECT first_row, end_row, succeeded, eos_natural, completion_tokens FROM shards"
        " WHERE job_id = :job ORDER BY first_row",
        job=job,
    )
    assert [tuple(map(int, item)) for item in found] == [(0, 3, 1, 1, 3), (3, 8, 2, 2, 6)]


@pytest.mark.parametrize("poison", range(0, 16, 3))
def test_between_two_deaths_of_one_row_a_worker_finishes_others(store, poison):
    """Or its supervisor would give the worker up: it cannot tell one deadly row from a model that always dies."""
    submit(store, ["x"] * 16, shard_size=16)
    in_a_row, most = 0, 0
    for _ in range(40):
        lease = take(store)
        if lease is None:
            break
        if lease.first_row <= poison < lease.end_row:
            in_a_row += 1
            most = max(most, in_a_row)
            bury_worker(store, "host:1")
            reap(store)
        else:
            answer(store, lease)
            in_a_row = 0
    (state,) = {state for state, *_ in shards_of(store, rows_of(store, "SELECT id FROM jobs")[0][0])}
    assert state == "done"
    assert most <= 5


def test_the_time_left_is_that_of_the_rows_left(store):
    """It was that of all rows."""
    job = submit(store, ["x"] * 8, shard_size=4)
    report_worker(store, WorkerReport("host:1", "cpu", "m", None, "packed", 10.0))
    lease = take(store)
    commit(store, lease, [outcome(row, tokens=30) for row in range(2)])
    status = job_status(store, job)
    assert (status.tokens_per_second, status.completion_tokens) == (10.0, 60)
    assert status.eta_seconds == pytest.approx(6 * 30 / 10.0)


def test_a_job_that_took_no_time_by_the_ledgers_clock_has_no_speed(store):
    """Nor has one that a clock put back has ended before it began."""
    job = submit(store, ["x"])
    answer_all(store, tokens=5)
    for ended, speed in ((0, 0.0), (-1, 0.0), (10, 0.5)):
        execute(store, "UPDATE jobs SET finished_at = started_at + :ended WHERE id = :job", job=job, ended=ended)
        status = job_status(store, job)
        assert (status.tokens_per_second, status.eta_seconds) == (speed, None)  # what has ended takes no more time


def test_a_workers_speed_is_shared_by_the_jobs_whose_shards_it_holds(store):
    """It counted whole for each of them."""
    one, two = submit(store, ["x"] * 3, shard_size=1), submit(store, ["x"] * 3, shard_size=1)
    report_worker(store, WorkerReport("host:1", "cpu", "m", None, "packed", 12.0))
    for job, count in ((one, 3), (two, 1)):
        execute(
            store,
            "UPDATE shards SET state = 'running', worker = 'host:1', lease_until = 0"
            " WHERE job_id = :job AND shard < :count",
            job=job,
            count=count,
        )
        execute(store, "UPDATE jobs SET state = 'running' WHERE id = :job", job=job)
    assert job_status(store, one).tokens_per_second == pytest.approx(9.0)
    assert job_status(store, two).tokens_per_second == pytest.approx(3.0)


def test_claims_pass_over_what_others_are_at_and_wait_for_it_last(store, dialect):
    """A claim spun, a core at full speed, for as long as another transaction was at the first job's shards."""
    if dialect == "sqlite":
        return _one_writer_at_a_time(store)
    busy, free = submit(store, ["x"], priority=1), submit(store, ["y"])
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(take(store, "host:2")))
    with store.writer.connect() as other:
        transaction = other.begin()
        other.execute(text("SELECT 1 FROM shards WHERE job_id = :job FOR UPDATE"), {"job": busy})
        assert take(store, "host:1").key.job_id == free
        waiter.start()
        waiter.join(0.3)
        assert waiter.is_alive()
        transaction.commit()
    waiter.join(20)
    assert [lease.key.job_id for lease in taken] == [busy]
    return None


def _one_writer_at_a_time(store):
    """On SQLite nobody is at a shard while another claims."""
    jobs = [submit(store, ["x"], priority=1), submit(store, ["y"])]
    assert [take(store, name).key.job_id for name in ("host:1", "host:2")] == jobs


def twice(row, first, last, *, round=0, number=1):
    """What a row has come to in two attempts of one round: the first was followed by another."""
    return Outcome(round, (attempt(row, first, number=number), attempt(row, last, number=number + 1)))


def test_a_recount_counts_the_last_attempt_of_a_row_alone(store):
    """The attempts before it, which `continue` or `escalate` followed up, were counted too."""
    job = submit(store, ["x"] * 3)
    commit(store, take(store), [twice(0, "length", "eos"), twice(1, "length", "length"), outcome(2, "error")])
    before = counters(store, job)
    assert (before["eos_natural"], before["length"], before["failed"], before["completion_tokens"]) == (1, 1, 1, 9)
    with store.writer.begin() as connection:
        recount(connection, job, [0])
    assert counters(store, job) == before


def test_rows_whose_earlier_attempt_was_cut_are_not_asked_again(store):
    """`retry --truncated` asked for rows again whose answer was whole: an attempt before it had been cut."""
    job = submit(store, ["x"] * 3)
    lease = take(store)
    commit(store, lease, [twice(0, "length", "eos"), twice(1, "length", "length"), outcome(2)])
    finish(store, lease)
    assert retry_rows(store, job, spec=SPEC, reasons=[FinishReason.LENGTH]) == [ShardKey(job, 0)]
    assert rows_of(store, "SELECT row FROM rows WHERE round = 1") == [(1,)]
    assert answer_all(store) == [1]
    assert counters(store, job) == recounted(store, job)
    assert retry_rows(store, job, spec=SPEC, reasons=[FinishReason.LENGTH]) == []


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_who_writes_has_the_lock_from_the_beginning_and_who_reads_has_none(store):
    """A transaction that reads first and writes later fails at once where another writer came between."""
    with closing(sqlite3.connect(store.url.database, timeout=0, isolation_level=None)) as other:
        with store.reader.begin():
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        with store.writer.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
