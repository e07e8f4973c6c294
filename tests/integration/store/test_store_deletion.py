"""Jobs that are deleted, whole or broken off in the middle, and how much of the database jobs take."""

import pytest

from endmark.db.attempts import commit
from endmark.db.deletion import delete_job, ended_before
from endmark.db.jobs import cancel_job, load_job, retry_rows
from endmark.db.progress import all_statuses
from endmark.db.served import Caller, Records
from endmark.db.served_batches import NewBatch, add_batch, note_job
from endmark.db.served_files import NewFile, add_file
from endmark.db.shards import reap
from endmark.db.sizes import JobSize, job_size
from endmark.jobs.errors import JobNotFound, JobStateError, LeaseLost
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import FinishReason, JobState
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import answer_all, execute, outcome, rows_of, take

pytestmark = pytest.mark.integration
TABLES = ("jobs", "specs", "rows", "shards", "attempts", "runs")


def counts(store):
    return {name: rows_of(store, f"SELECT count(*) FROM {name}")[0][0] for name in TABLES}


def ended(store, rows=4, *, days=0):
    """A completed job that ended so many days ago."""
    job = submit(store, ["x"] * rows)
    answer_all(store)
    execute(store, "UPDATE jobs SET finished_at = finished_at - :age WHERE id = :job", age=days * 86400, job=job)
    return job


def test_nothing_of_a_deleted_job_is_left_and_the_others_stay(store):
    kept = ended(store)
    before = counts(store)
    job = ended(store)
    delete_job(store, job)
    assert counts(store) == before
    assert load_job(store, kept).state is JobState.COMPLETED
    with pytest.raises(JobNotFound):
        delete_job(store, job)


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_a_job_that_has_not_ended_is_refused(store, state):
    job = submit(store, ["x"])
    execute(store, "UPDATE jobs SET state = :state", state=state)
    with pytest.raises(JobStateError, match=f"is {state}") as refused:
        delete_job(store, job)
    assert refused.value.hint == f"`endmark cancel {job}` ends it first"
    assert counts(store)["rows"] == 1


def test_a_deletion_that_was_broken_off_is_gone_on_with_by_the_reaper(store, monkeypatch):
    """A killed `endmark delete` must leave neither half a job that looks whole nor rows for ever."""
    job = ended(store, 12_000)
    monkeypatch.setattr("endmark.db.deletion._delete_all", lambda store, job_id: None)  # killed at once
    delete_job(store, job)
    assert all_statuses(store) == []
    with pytest.raises(JobNotFound):
        retry_rows(store, job, spec=GenerationSpec(model="m"), reasons=[FinishReason.EOS])
    for left in (7_000, 2_000, 0):
        reap(store)
        assert counts(store)["rows"] == left
    assert counts(store) == dict.fromkeys(TABLES, 0)


def test_a_worker_that_still_holds_rows_of_a_deleted_job_stores_nothing(store):
    job = submit(store, ["x"])
    lease = take(store)
    cancel_job(store, job)
    delete_job(store, job)
    with pytest.raises(LeaseLost):
        commit(store, lease, [outcome(0)])
    assert counts(store) == dict.fromkeys(TABLES, 0)


def test_ended_jobs_are_found_by_their_age_the_oldest_first(store):
    young, old, older = ended(store, days=2), ended(store, days=31), ended(store, days=40)
    running = submit(store, ["x"])
    execute(store, "UPDATE jobs SET created_at = 0 WHERE id = :job", job=running)
    assert [item.id for item in ended_before(store, 30 * 86400)] == [older, old]
    assert [item.id for item in ended_before(store, 86400)] == [older, old, young]
    assert ended_before(store, 0)[-1].age == pytest.approx(2 * 86400, abs=60)


def test_the_job_of_a_batch_stays_until_its_files_are_written(store):
    """The batch of a job that was deleted too soon would end as failed, its answers lost."""
    records, caller = Records(store, "shelf"), Caller("me")
    file_id = "file-" + "0" * 24
    add_file(records, NewFile(file_id, "me", "in.jsonl", "batch", 3))
    batch = add_batch(records, caller, NewBatch(file_id, "/v1/chat/completions", "24h", 86400))
    job = ended(store, days=31)
    note_job(records, batch.id, job)
    assert ended_before(store, 0) == []
    with pytest.raises(JobStateError, match="whose files are not written yet"):
        delete_job(store, job)
    execute(store, "UPDATE batches SET state = 'completed'")
    delete_job(store, job)


def test_the_size_of_a_small_job_is_counted_in_bytes(store):
    job = submit(store, ["a", "ü", "€"])
    answer_all(store, text="ein Ü")
    stored = rows_of(store, "SELECT cells FROM rows")
    found = job_size(store, job, 3)
    assert found.bytes == found.prompt_bytes + found.answer_bytes
    assert found == JobSize(
        rows=3,
        prompt_bytes=sum(len(item[0].encode()) for item in stored),
        answer_bytes=3 * len("ein Ü".encode()),
        trace_bytes=0,
        exact=True,
    )


def test_the_size_of_a_large_job_is_projected_from_rows_spread_over_it(store):
    """All rows of a job of a million were read for one line of `status`."""
    job = submit(store, ["x" * (index % 100) for index in range(5_000)], shard_size=5_000)
    (exact,) = rows_of(store, "SELECT sum(length(cells)) FROM rows")[0]
    found = job_size(store, job, 5_000)
    assert not found.exact
    assert found.prompt_bytes == pytest.approx(exact, rel=0.06)
    assert job_size(store, job, 0) == JobSize(0, 0, 0, 0, exact=True)


def test_what_is_alike_in_all_rows_is_projected_exactly(store):
    """Each of the three sums, and their whole: a trace that was divided by the share passed all tests."""
    job = submit(store, ["Hi"] * 2_500, shard_size=2_500)
    answer_all(store, text="three", reasoning="ü")
    execute(store, "UPDATE attempts SET eos_probs = :probs", probs=b"0123456789")
    (cells,) = rows_of(store, "SELECT max(length(cells)) FROM rows")[0]
    found = job_size(store, job, 2_500)
    assert (found.prompt_bytes, found.answer_bytes, found.trace_bytes) == (2_500 * cells, 2_500 * 7, 25_000)
    assert found.bytes == 2_500 * (cells + 17)
