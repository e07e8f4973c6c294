"""The time that devices work for jobs, charged with each report of a worker."""

import pytest

from endmark.db.deletion import delete_job
from endmark.db.jobs import cancel_job
from endmark.db.progress import job_status
from endmark.db.workers import report_worker
from endmark.jobs.progress import WorkerReport
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import execute, take

pytestmark = pytest.mark.integration

REPORT = WorkerReport("host:1", "cuda:0", "m", None, "packed", 1.0)


def after(store, seconds):
    """Report again, as if so many seconds had gone since the report before."""
    execute(store, "UPDATE workers SET heartbeat = heartbeat - :seconds", seconds=seconds)
    report_worker(store, REPORT)


def charged(store, job):
    return job_status(store, job).device_seconds


def test_a_worker_is_charged_to_the_jobs_whose_shards_it_holds(store):
    first, second = submit(store, ["x"] * 24, priority=1), submit(store, ["x"] * 8)
    report_worker(store, REPORT)
    assert charged(store, first) == 0.0
    after(store, 3.0)
    assert charged(store, first) == 0.0, "it holds nothing, and is free for others"
    assert [take(store).key.job_id for _ in range(4)] == [first] * 3 + [second]
    after(store, 4.0)
    assert charged(store, first) == pytest.approx(3.0, abs=0.5)
    assert charged(store, second) == pytest.approx(1.0, abs=0.2)
    cancel_job(store, second)
    after(store, 4.0)
    assert charged(store, first) == pytest.approx(7.0, abs=0.8)
    assert charged(store, second) == pytest.approx(1.0, abs=0.2)


def test_two_workers_are_two_devices(store):
    job = submit(store, ["x"] * 16)
    for worker in ("host:1", "host:2"):
        take(store, worker)
        report_worker(store, WorkerReport(worker, "cuda:0", "m", None, "packed", 1.0))
    execute(store, "UPDATE workers SET heartbeat = heartbeat - 3")
    for worker in ("host:1", "host:2"):
        report_worker(store, WorkerReport(worker, "cuda:0", "m", None, "packed", 1.0))
    assert charged(store, job) == pytest.approx(6.0, abs=0.8)


def test_a_worker_that_was_away_is_not_charged_for_it(store):
    """A host that slept for a night would have been charged for it."""
    job = submit(store, ["x"])
    report_worker(store, REPORT)
    take(store)
    after(store, 8 * 3600.0)
    assert charged(store, job) == 0.0


def test_a_job_that_was_deleted_meanwhile_is_no_error(store):
    job = submit(store, ["x"])
    report_worker(store, REPORT)
    take(store)
    execute(store, "UPDATE jobs SET state = 'cancelled'")
    delete_job(store, job)
    execute(store, "UPDATE shards SET state = 'running'")
    after(store, 3.0)
