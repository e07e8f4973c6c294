"""The reaper: expired leases, lost messages, rows that kill workers, submissions that nobody ends."""

from dataclasses import fields

import pytest

from endmark.db.attempts import commit
from endmark.db.deletion import ABANDONED_AFTER
from endmark.db.jobs import add_rows, begin_job, discard_submission, finish_submission, load_job
from endmark.db.progress import job_status
from endmark.db.rows import unfinished_rows
from endmark.db.shards import finish, reap
from endmark.db.workers import list_workers, remove_worker, report_worker, workers_for
from endmark.jobs.errors import JobNotFound, StoreError
from endmark.jobs.progress import WorkerReport
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import shards_of, submit
from tests.integration.store.ledger import (
    counters,
    doubled,
    execute,
    expire,
    outcome,
    recounted,
    rows_of,
    take,
)

pytestmark = pytest.mark.integration


def test_an_expired_lease_goes_back(store):
    job = submit(store, ["x"] * 6, shard_size=2)
    take(store)
    reap(store)
    assert [state for state, *_ in shards_of(store, job)] == ["running", "queued", "queued"]
    expire(store)
    reap(store)
    assert [state for state, *_ in shards_of(store, job)] == ["queued"] * 3


@pytest.mark.parametrize("poison", [{37}, {0, 63}, {20, 21}])
def test_a_row_that_kills_its_workers_fails_alone(store, poison):
    """A worker dies on a shard that holds a poisonous row, having stored what came before it."""
    job = submit(store, ["x"] * 64, shard_size=32)
    innocent = submit(store, ["x"] * 8, shard_size=4)
    deaths = 0
    for _ in range(200):
        lease = take(store)
        if lease is None:
            if all(load_job(store, item).state.is_final for item in (job, innocent)):
                break
            expire(store)
            reap(store)
            continue
        rows = [item.row for item in unfinished_rows(store, lease)]
        bad = poison.intersection(rows) if lease.key.job_id == job else set()
        before = [row for row in rows if not bad or row < min(bad)]
        commit(store, lease, [outcome(row) for row in before[: len(before) // 2 if bad else None]])
        if bad:
            deaths += 1
            expire(store)
            reap(store)
        else:
            finish(store, lease)
    assert load_job(store, job).state is JobState.COMPLETED_WITH_ERRORS
    assert load_job(store, innocent).state is JobState.COMPLETED
    failed = rows_of(store, "SELECT row, attempt, error FROM attempts WHERE finish_reason = 'error' ORDER BY row")
    assert [(row, number) for row, number, _ in failed] == [(row, 1) for row in sorted(poison)]
    assert all("the worker died on this row 3 times" in error for *_, error in failed)
    assert deaths <= 15 * len(poison)
    finals = rows_of(store, "SELECT row FROM attempts WHERE final AND job_id = :job ORDER BY row", job=job)
    assert finals == [(row,) for row in range(64)]
    assert doubled(store) == []
    assert counters(store, job) == recounted(store, job)
    spans = rows_of(store, "SELECT first_row, end_row FROM shards WHERE job_id = :job ORDER BY first_row", job=job)
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == 64


def test_a_suspect_runs_alone(store):
    """No other shard shall die with a row that kills workers, nor wait for ever behind it."""
    job = submit(store, ["x"] * 6, shard_size=2)
    for _ in range(2):
        take(store, "host:1")
        expire(store)
        reap(store)
    assert shards_of(store, job)[0] == ("queued", 2, 2)
    assert [take(store, "host:2").key.shard for _ in range(2)] == [1, 2]
    assert take(store, "host:2") is None  # it holds others
    assert take(store, "host:3").key.shard == 0
    submit(store, ["x"])
    assert take(store, "host:3") is None  # it holds the suspect
    assert take(store, "host:2") is not None


def test_a_worker_that_dies_between_its_last_row_and_the_end_leaves_no_failure(store):
    job = submit(store, ["x"] * 2)
    for _ in range(5):
        lease = take(store)
        commit(store, lease, [outcome(item.row) for item in unfinished_rows(store, lease)])
        expire(store)
        reap(store)
    finish(store, take(store))
    assert load_job(store, job).state is JobState.COMPLETED
    assert job_status(store, job).failed == 0


def test_an_unfinished_submission_is_seen_by_nobody_and_ends_in_time(store):
    job = begin_job(store, name="n", spec=GenerationSpec(model="m"))
    add_rows(store, job, 0, ['["x"]'] * 12_000)
    with pytest.raises(JobNotFound):
        load_job(store, job)
    reap(store)
    assert rows_of(store, "SELECT count(*) FROM rows") == [(12_000,)]
    execute(store, "UPDATE jobs SET updated_at = updated_at - :age", age=ABANDONED_AFTER + 1)
    reap(store)
    assert rows_of(store, "SELECT count(*) FROM rows") == [(7_000,)]  # in steps, so that others can write
    with pytest.raises(StoreError, match="no longer being stored"):
        add_rows(store, job, 12_000, ['["x"]'])
    with pytest.raises(StoreError, match="no longer being stored"):
        finish_submission(store, job, columns=("prompt",), total=12_000, shard_size=1000)
    for _ in range(2):
        reap(store)
    assert rows_of(store, "SELECT count(*) FROM jobs") == [(0,)]
    assert rows_of(store, "SELECT count(*) FROM rows") == [(0,)]


def test_a_submission_that_is_given_up_leaves_nothing(store):
    kept = submit(store, ["x"] * 3)
    job = begin_job(store, name="n", spec=GenerationSpec(model="m"))
    add_rows(store, job, 0, ['["x"]'] * 6000)
    discard_submission(store, job)
    discard_submission(store, kept)  # a stored job is no submission any more
    assert rows_of(store, "SELECT id FROM jobs") == [(kept,)]
    assert rows_of(store, "SELECT count(*) FROM rows") == [(3,)]


def test_workers_are_listed_while_they_live(store):
    job = submit(store, ["x"] * 4, shard_size=1)
    report = WorkerReport(
        "host:1",
        "NVIDIA H200",
        "m",
        None,
        "nf4",
        12.5,
        weight_bytes=13_500_000_000,
        kv_tokens=200_000,
        engine="vllm",
    )
    report_worker(store, report)
    report_worker(store, WorkerReport("host:2", "cpu", "m", "adapter", "packed", 0.0))
    lease, _ = take(store, "host:1"), take(store, "host:1")
    (first, second) = list_workers(store)
    assert all(getattr(first, item.name) == getattr(report, item.name) for item in fields(report))
    assert (second.weight_bytes, second.kv_tokens, second.engine) == (0, 0, "endmark")
    assert (first.shards, second.shards) == (2, 0)
    assert 0 <= first.heartbeat_age < 5
    assert [item.worker for item in workers_for(store, "m", "adapter")] == ["host:2"]
    assert [item.worker for item in job_status(store, job).workers] == ["host:1"]
    assert job_status(store, job).tokens_per_second == 12.5
    execute(store, "UPDATE workers SET heartbeat = heartbeat - 90 WHERE worker = 'host:2'")
    assert [item.worker for item in list_workers(store)] == ["host:1"]
    assert [item.worker for item in list_workers(store, max_age=100.0)] == ["host:1", "host:2"]
    execute(store, "UPDATE workers SET heartbeat = heartbeat - 4000 WHERE worker = 'host:2'")
    reap(store)
    assert rows_of(store, "SELECT worker FROM workers") == [("host:1",)]
    finish(store, lease)
    remove_worker(store, "host:1")
    assert list_workers(store) == []
