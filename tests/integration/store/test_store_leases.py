"""Claims and leases: each shard to one worker at a time, in a fair order."""

import threading
from collections import Counter

import pytest

from endmark.db.attempts import commit
from endmark.db.connection import open_store
from endmark.db.jobs import cancel_job, load_job, pause_job, resume_job
from endmark.db.shards import finish, heartbeat, release
from endmark.jobs.errors import LeaseLost
from endmark.jobs.vocabulary import JobState, ShardKey
from tests.integration.service_fixtures import shards_of, submit
from tests.integration.store.ledger import answer, answer_all, expire, outcome, rows_of, take

pytestmark = pytest.mark.integration


def test_many_who_claim_at_once_get_each_shard_once(store, database_url):
    """Threads of two processes' worth of stores, on two jobs."""
    jobs = [submit(store, ["x"] * 160, shard_size=2) for _ in range(2)]
    taken, failures = [], []
    start = threading.Barrier(12)

    def work(opened, name):
        try:
            start.wait()
            while (lease := take(opened, name)) is not None:
                taken.append(lease)
        except BaseException as error:
            failures.append(error)

    with open_store(database_url) as other:
        threads = [
            threading.Thread(target=work, args=(other if number % 2 else store, f"host:{number}"))
            for number in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(taken) == 160
    assert {lease.key for lease in taken} == {ShardKey(job, shard) for job in jobs for shard in range(80)}
    assert {(lease.fence, lease.attempts) for lease in taken} == {(1, 1)}
    for job in jobs:
        spans = sorted((lease.first_row, lease.end_row) for lease in taken if lease.key.job_id == job)
        assert spans == [(row, row + 2) for row in range(0, 160, 2)]


def test_a_worker_that_comes_back_too_late_can_write_nothing(store):
    job = submit(store, ["x"] * 4, shard_size=4)
    zombie = take(store, "host:1")
    assert take(store, "host:2") is None
    expire(store)
    lease = take(store, "host:2")
    assert (lease.key, lease.fence, lease.attempts) == (zombie.key, 2, 2)
    before = rows_of(store, "SELECT * FROM shards")
    with pytest.raises(LeaseLost, match=f"{job} shard 0"):
        commit(store, zombie, [outcome(0), outcome(1)])
    finish(store, zombie)
    release(store, zombie)
    assert heartbeat(store, [zombie]) == {zombie}
    assert rows_of(store, "SELECT * FROM shards") == before
    assert rows_of(store, "SELECT * FROM attempts") == []
    answer(store, lease)
    assert load_job(store, job).state is JobState.COMPLETED
    with pytest.raises(LeaseLost):
        commit(store, lease, [outcome(0)])


def test_a_zombie_and_its_successor_who_write_at_once(store):
    """Whoever is first, the rows are those of the one who holds the fence."""
    for _ in range(10):
        job = submit(store, ["x"] * 8)
        zombie = take(store, "host:1")
        expire(store)
        start = threading.Barrier(2)
        refused = []

        def write_late(start=start, zombie=zombie, refused=refused):
            start.wait()
            try:
                commit(store, zombie, [outcome(row, text="zombie") for row in range(8)])
            except LeaseLost:
                refused.append(True)

        thread = threading.Thread(target=write_late)
        thread.start()
        start.wait()
        lease = take(store, "host:2")
        thread.join()
        answer(store, lease, text="successor")
        texts = {text for (text,) in rows_of(store, "SELECT text FROM attempts WHERE job_id = :job", job=job)}
        assert texts == ({"successor"} if refused else {"zombie"})
        assert load_job(store, job).state is JobState.COMPLETED


def test_a_heartbeat_keeps_a_lease(store):
    submit(store, ["x"] * 4, shard_size=2)
    first, second = take(store, lease_seconds=20.0), take(store, lease_seconds=30.0)
    assert heartbeat(store, [first, second], lease_seconds=60.0) == set()
    assert take(store) is None
    ((least,),) = rows_of(store, f"SELECT min(lease_until) - {store.now} FROM shards")
    assert 50 < least < 61
    assert heartbeat(store, []) == set()


def test_a_released_shard_does_not_count_as_a_death(store):
    job = submit(store, ["x"])
    for _ in range(10):
        release(store, take(store))
    assert shards_of(store, job) == [("queued", 20, 0)]


def test_a_higher_priority_goes_first(store):
    """A job that comes later and higher takes the next turns from one that runs."""
    low, high = (submit(store, ["x"] * 2, shard_size=1, priority=priority) for priority in (0, 1))
    assert take(store).key.job_id == high
    higher = submit(store, ["x"], shard_size=1, priority=2)
    assert [take(store).key.job_id for _ in range(4)] == [higher, high, low, low]


def test_a_large_job_leaves_turns_to_a_small_one(store):
    large = submit(store, ["x"] * 100, shard_size=1)
    for _ in range(10):
        take(store)
    small = submit(store, ["x"] * 5, shard_size=1)
    order = [take(store).key.job_id for _ in range(5)]
    assert order == [small] * 5
    third = submit(store, ["x"] * 100, shard_size=1)
    turns = Counter(take(store, f"host:{number}").key.job_id for number in range(30))
    assert abs((turns[large] + 10) - turns[third]) <= 1


def test_a_worker_gets_the_jobs_of_its_model_and_adapter_alone(store):
    submit(store, ["x"])
    submit(store, ["x"], model="m", adapter="a")
    assert take(store, model="other") is None
    assert take(store, model="m", adapter="b") is None
    assert take(store, adapter="a") is not None
    assert take(store, adapter="a") is None
    assert take(store) is not None


def test_paused_and_cancelled_jobs_keep_what_is_done(store):
    job = submit(store, ["x"] * 12, shard_size=4)
    answer(store, take(store))
    half = take(store)
    commit(store, half, [outcome(4), outcome(5)])
    pause_job(store, job)
    assert take(store) is None
    with pytest.raises(LeaseLost):
        commit(store, half, [outcome(6)])
    assert heartbeat(store, [half]) == {half}
    resume_job(store, job)
    again = take(store)
    assert (again.key, again.attempts) == (half.key, 1)  # a pause is not a death
    cancel_job(store, job)
    with pytest.raises(LeaseLost):
        commit(store, again, [outcome(6)])
    assert take(store) is None
    assert [row for (row,) in rows_of(store, "SELECT row FROM attempts ORDER BY row")] == [0, 1, 2, 3, 4, 5]
    assert load_job(store, job).state is JobState.CANCELLED


def test_a_job_closes_with_its_last_shard_though_two_end_at_once(store):
    for _ in range(10):
        job = submit(store, ["x"] * 2, shard_size=1)
        leases = [take(store, f"host:{number}") for number in range(2)]
        for lease in leases:
            commit(store, lease, [outcome(lease.first_row)])
        threads = [threading.Thread(target=finish, args=(store, lease)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert load_job(store, job).state is JobState.COMPLETED


def test_a_job_without_rows_is_complete(store):
    assert load_job(store, submit(store, [])).state is JobState.COMPLETED
    assert answer_all(store) == []


def test_a_shard_that_is_claimed_again_after_a_pause_is_kept(store):
    """Paused and resumed between two heartbeats, the worker held both leases, and dropped both."""
    job = submit(store, ["x"])
    before = take(store)
    pause_job(store, job)
    resume_job(store, job)
    again = take(store)
    assert again.key == before.key
    assert heartbeat(store, [before, again]) == {before}
