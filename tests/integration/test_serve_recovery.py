"""Batches whose service was killed, or whose ledger was away, while their files were checked."""

import json
from contextlib import contextmanager

import pytest

from endmark.cli.serve.batches import Batches, Terms
from endmark.cli.serve.shelf import Shelf
from endmark.db.jobs import load_job
from endmark.db.progress import all_statuses, job_status
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import wait_until

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"


@pytest.fixture
def shelf(tmp_path):
    made = Shelf(tmp_path / "serve")
    yield made
    made.close()


@contextmanager
def service(store, shelf):
    """The batches of a service; yields them with what they rang for."""
    rung = []
    terms = Terms(GenerationSpec(model="m"), max_requests=100)
    made = Batches(store, shelf, terms, lambda spec, keys: rung.append(keys), again=0.05)
    try:
        yield made, rung
    finally:
        made.close()


def upload(shelf, content=None):
    """Put a file of requests on the shelf; return what a batch is made of."""
    file_id, part = shelf.new_file()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    lines = [{"custom_id": f"r{row}", "method": "POST", "url": CHAT, "body": body} for row in range(3)]
    part.write_text("".join(json.dumps(line) + "\n" for line in lines) if content is None else content)
    shelf.keep_file(file_id, "batch.jsonl", "batch")
    return {"input_file_id": file_id, "endpoint": CHAT, "metadata": None, "completion_window": "24h"}


def settled(shelf, batch_id):
    """Wait until a batch has its job; return the job's id."""
    wait_until(lambda: shelf.batch(batch_id).job_id)
    return shelf.batch(batch_id).job_id


def test_a_service_killed_before_it_noted_the_job_finds_it_again(store, shelf):
    """The next service stored the batch a second time, and all its requests were answered twice."""
    with service(store, shelf) as (batches, rung):
        batch = shelf.batch(batches.create(**upload(shelf))["id"])
        job_id = settled(shelf, batch.id)
        wait_until(lambda: rung)
    shelf.save(batch)  # as a kill between the two leaves it
    with service(store, shelf) as (batches, _):
        assert settled(shelf, batch.id) == job_id
        assert batches.describe(shelf.batch(batch.id))["request_counts"]["total"] == 3
    assert [job.id for job in all_statuses(store)] == [job_id]
    assert load_job(store, job_id).name == batch.id


@pytest.mark.parametrize("noted", [True, False])
def test_a_service_killed_before_it_cancelled_the_job_cancels_it(store, shelf, noted):
    """Who asked had been told `cancelling`; the job ran on."""
    with service(store, shelf) as (batches, _):
        batch = shelf.batch(batches.create(**upload(shelf))["id"])
        job_id = settled(shelf, batch.id)
    assert job_status(store, job_id).state is JobState.QUEUED
    shelf.change(batch.id, job_id=job_id if noted else None, cancelled=True)
    with service(store, shelf):
        wait_until(lambda: job_status(store, job_id).state is JobState.CANCELLED)
        assert settled(shelf, batch.id) == job_id


def test_a_batch_cancelled_before_it_was_stored_is_never_stored(store, shelf):
    batch = shelf.new_batch(**upload(shelf))
    shelf.change(batch.id, cancelled=True)
    with service(store, shelf) as (batches, _):
        after = batches.create(**upload(shelf))["id"]  # checked behind it
        job_id = settled(shelf, after)
        assert batches.describe(shelf.batch(batch.id))["status"] == "cancelled"
    assert [job.id for job in all_statuses(store)] == [job_id]


@pytest.mark.parametrize("dialect", ["postgres"])
def test_a_batch_waits_while_the_ledger_is_away(store, shelf, postgres, capfd):
    """It failed for good, though nothing was wrong with its file; a bad file fails all the same."""
    with service(store, shelf) as (batches, rung):
        postgres.stop()
        try:
            batch_id = batches.create(**upload(shelf))["id"]
            said = []
            wait_until(lambda: said.append(capfd.readouterr().err) or f"batch {batch_id} waits" in "".join(said))
            assert batches.describe(shelf.batch(batch_id))["status"] == "validating"
        finally:
            postgres.start()
        job_id = settled(shelf, batch_id)
        wait_until(lambda: rung)
        assert job_status(store, job_id).total == 3
        bad = batches.create(**upload(shelf, "no json\n"))["id"]
        wait_until(lambda: shelf.batch(bad).errors)
        assert batches.describe(shelf.batch(bad))["status"] == "failed"
    assert len(all_statuses(store)) == 1
