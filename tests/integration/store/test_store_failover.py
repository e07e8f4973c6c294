"""A database that has lost its last second, as after a failover: what was stored then is run again, and once."""

import pytest
from sqlalchemy import text

from endmark.db.attempts import commit
from endmark.db.counting import recount
from endmark.db.jobs import fail_job, load_job
from endmark.db.shards import finish, heartbeat, release
from endmark.jobs.errors import LeaseLost
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import shards_of, submit
from tests.integration.store.ledger import answer, answer_all, counters, execute, outcome, recounted, rows_of, take

pytestmark = pytest.mark.integration


def test_rows_that_are_gone_are_run_again(store):
    """A worker closed its shard by what it had been told was stored, and the job ended as cancelled."""
    job = submit(store, ["x"] * 4)
    lease = take(store)
    commit(store, lease, [outcome(row) for row in range(4)])
    with store.writer.begin() as connection:
        connection.execute(text("DELETE FROM attempts WHERE row > 1"))
        recount(connection, job, [0])
    assert not finish(store, lease)
    assert shards_of(store, job) == [("queued", 2, 0)]
    assert answer_all(store) == [2, 3]
    assert load_job(store, job).state is JobState.COMPLETED
    assert counters(store, job) == recounted(store, job)


def test_a_fence_that_is_given_twice_is_good_for_one_worker_alone(store):
    """The claim of the first was lost, and the second was given the same fence: both stored rows under it."""
    job = submit(store, ["x"] * 2)
    first = take(store, "host:1")
    execute(
        store, "UPDATE shards SET state = 'queued', fence = 0, attempts = 0, worker = NULL, lease_until = NULL"
    )
    second = take(store, "host:2")
    assert (first.key, first.fence) == (second.key, second.fence)
    with pytest.raises(LeaseLost):
        commit(store, first, [outcome(0, text="first")])
    assert heartbeat(store, [first, second]) == {first}
    finish(store, first)
    release(store, first)
    fail_job(store, first, "it cannot be run")
    assert shards_of(store, job) == [("running", 1, 1)]
    answer(store, second, text="second")
    assert rows_of(store, "SELECT text FROM attempts") == [("second",)] * 2
    assert load_job(store, job).state is JobState.COMPLETED
