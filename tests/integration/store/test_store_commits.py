"""Commits: all of a batch or nothing, each row once, counters that equal a recount."""

import math
import random
import threading
import time

import pytest
from sqlalchemy import text

from endmark.db.attempts import commit
from endmark.db.connection import open_store
from endmark.db.jobs import load_job
from endmark.db.progress import all_statuses, job_status
from endmark.db.rows import unfinished_rows
from endmark.db.shards import finish
from endmark.jobs.errors import StoreError
from endmark.jobs.vocabulary import Attempt, EosTrace, FinishReason, JobState, Outcome, Verdict
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import (
    answer_all,
    attempt,
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

REASONS = ("eos", "stop_sequence", "repetition", "length", "error")
SOURCES = ("natural", "boosted", "forced")


def test_counters_equal_a_recount(store):
    rng = random.Random(3)
    job = submit(store, ["x"] * 90, shard_size=30)
    while (lease := take(store)) is not None:
        for first in range(lease.first_row, lease.end_row, 10):
            commit(
                store,
                lease,
                [
                    outcome(row, rng.choice(REASONS), source=rng.choice(SOURCES), tokens=rng.randrange(9))
                    for row in range(first, first + 10)
                ],
            )
        finish(store, lease)
    assert counters(store, job) == recounted(store, job)
    status = job_status(store, job)
    assert status.state is JobState.COMPLETED_WITH_ERRORS
    assert (status.total, status.pending, status.running) == (90, 0, 0)
    assert sum(status.finish_reasons.values()) == 90
    assert status.finish_reasons["error"] == status.failed == 90 - status.succeeded
    assert status.truncated == status.finish_reasons["length"] + status.finish_reasons["repetition"]
    assert all_statuses(store) == [status]


def test_a_commit_whose_reply_was_lost_counts_once(store):
    job = submit(store, ["x"] * 4)
    lease = take(store)
    first = [Outcome(0, (attempt(0, "length"), attempt(0, "eos", number=2))), outcome(1, "error")]
    for _ in range(3):
        commit(store, lease, first)
    commit(store, lease, [first[0], outcome(2)])  # partly stored before
    assert counters(store, job) == recounted(store, job)
    assert counters(store, job)["succeeded"] == 2
    assert rows_of(store, "SELECT row, attempt FROM attempts WHERE final ORDER BY row") == [(0, 2), (1, 1), (2, 1)]
    assert [item.row for item in unfinished_rows(store, lease)] == [3]


def test_connections_that_break_at_any_moment_cost_no_row(store, database_url):
    """Four workers commit at once; on Postgres their connections are cut, on SQLite they wait for each other."""
    job = submit(store, ["x"] * 320, shard_size=16)
    workers = [Persistent(open_store(database_url), f"host:{number}") for number in range(4)]
    for worker in workers:
        worker.start()
    while store.dialect == "postgresql" and any(worker.is_alive() for worker in workers):
        cut_connections(store)
        time.sleep(0.05)
    for worker in workers:
        worker.join()
        worker.store.close()
    assert [worker.failure for worker in workers] == [None] * 4
    store.writer.dispose()  # its own connections were cut as well
    # A claim whose reply was lost has no owner who knows of it: its lease runs out, and another goes on.
    expire(store)
    answer_all(store)
    assert load_job(store, job).state is JobState.COMPLETED
    assert [row for (row,) in rows_of(store, "SELECT row FROM attempts ORDER BY row")] == list(range(320))
    assert doubled(store) == []
    assert counters(store, job) == recounted(store, job)


class Persistent(threading.Thread):
    """A worker that stores its rows however often it is refused."""

    def __init__(self, store, name):
        super().__init__()
        self.store, self.worker, self.failure = store, name, None

    def run(self):
        try:
            while (lease := self.persist(take, self.worker)) is not None:
                for row in range(lease.first_row, lease.end_row, 4):
                    self.persist(commit, lease, [outcome(item) for item in range(row, row + 4)])
                self.persist(finish, lease)
        except BaseException as error:
            self.failure = error

    def persist(self, work, *arguments):
        while True:
            try:
                return work(self.store, *arguments)
            except StoreError:
                time.sleep(0.05)


def cut_connections(store):
    with store.reader.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
            )
        )


def test_any_text_and_every_number_come_back(store):
    said = 'é\n"quotes" 🏁 \u202e\x1b[2J\x00 half \ud83d'
    others = ["", "\\N", "a\tb\r\n\\t \\", "\\.", "\N{LINE SEPARATOR}"]  # what means something to COPY
    job = submit(store, ["x"] * 6)
    lease = take(store)
    trace = EosTrace(prob_max=1e-30, step_max=7, rank_max=3, hidden_steps=2, probs=(0.0, 0.5, 1.0))
    verdict = Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="##\x00")
    first = Outcome(0, (Attempt(0, 1, said, verdict, 2**31 - 1, 0, trace, "stop"),))
    commit(store, lease, [first, *(outcome(row, text=other) for row, other in enumerate(others, 1))])
    (found,) = rows_of(
        store,
        "SELECT text, stop_sequence, prompt_tokens, eos_prob_max, eos_step_max, eos_rank_max, eos_hidden_steps,"
        " eos_probs, strategies FROM attempts WHERE job_id = :job AND row = 0",
        job=job,
    )
    assert found[:7] == ('é\n"quotes" 🏁 \u202e\x1b[2J half ?', "##", 2**31 - 1, 1e-30, 7, 3, 2)
    assert bytes(found[7]) == b"\x00\x00\x00\x38\x00\x3c"
    assert found[8] == "stop"
    assert rows_of(store, "SELECT text FROM attempts WHERE row > 0 ORDER BY row") == [(other,) for other in others]


def test_a_number_that_is_none_is_null(store):
    job = submit(store, ["x"])
    trace = EosTrace(prob_max=math.nan)
    commit(store, take(store), [Outcome(0, (Attempt(0, 1, "", Verdict(FinishReason.LENGTH), 1, 1, trace),))])
    assert rows_of(store, "SELECT eos_prob_max FROM attempts WHERE job_id = :job", job=job) == [(None,)]


def test_attempts_of_rows_that_go_go_with_them(store):
    """On Postgres by a trigger: a foreign key had each row that was answered locked and written again."""
    job, other = submit(store, ["x"] * 3), submit(store, ["x"] * 3)
    answer_all(store)
    execute(store, "DELETE FROM rows WHERE job_id = :job AND row <> 1", job=job)
    left = rows_of(store, "SELECT job_id, row FROM attempts ORDER BY job_id, row")
    assert left == sorted([(job, 1), (other, 0), (other, 1), (other, 2)])
