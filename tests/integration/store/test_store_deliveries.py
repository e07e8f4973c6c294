"""Deliveries on both databases: each told once, tried again by its waits, by whoever has the key."""

import json
import threading

import pytest

from endmark.db.deletion import delete_job
from endmark.db.deliveries import WAITS, add_deliveries, deliver_due, deliveries_of
from endmark.db.jobs import add_rows, begin_job, cancel_job, finish_submission, retry_rows
from endmark.db.runs import forget_run, remember_run
from endmark.jobs.delivery.keys import Key
from endmark.jobs.delivery.word import NewDelivery
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import FinishReason
from tests.integration.store.ledger import answer_all, execute, rows_of

pytestmark = pytest.mark.integration
KEY, OTHER = Key(b"0123456789abcdef"), Key(b"fedcba9876543210")
URL = NewDelivery("url", "https://example.com/hook")
COMMAND = NewDelivery("command", "true")


class Sender:
    """Notes what is sent, and answers as told."""

    def __init__(self, *answers):
        self.answers, self.sent = list(answers), []

    def __call__(self, delivery, key, word, when):
        self.sent.append((delivery, json.loads(word)["data"]))
        return self.answers.pop(0) if self.answers else None


def stored(store, *wanted, rows=2, ended=True):
    job = begin_job(store, name="n", spec=GenerationSpec(model="m"))
    add_deliveries(store, job, wanted or [(URL, KEY)])
    add_rows(store, job, 0, ['["x"]'] * rows)
    finish_submission(store, job, columns=("prompt",), total=rows, shard_size=8)
    if ended:
        answer_all(store)
    return job


def state(store, job):
    return [(item.kind, item.state, item.attempts, item.error) for item in deliveries_of(store, job)]


def due_now(store):
    execute(store, f"UPDATE deliveries SET due_at = {store.now} - 1")


def test_a_job_is_told_of_once_when_it_has_ended(store):
    job = stored(store, ended=False)
    send = Sender()
    deliver_due(store, [KEY], send)
    assert send.sent == []
    answer_all(store)
    for _ in range(2):
        deliver_due(store, [KEY], send)
    ((delivery, told),) = send.sent
    assert (delivery.id, delivery.target) == (f"job_{job}_url", URL.target)
    assert (told["job"], told["state"], told["succeeded"], told["rows"]) == (job, "completed", 2, 2)
    assert state(store, job) == [("url", "delivered", 1, None)]
    retry_rows(store, job, spec=GenerationSpec(model="m"), reasons=[FinishReason.EOS])
    answer_all(store)
    deliver_due(store, [KEY], send)
    assert len(send.sent) == 1


def test_a_cancelled_job_is_told_of_too(store):
    job = stored(store, ended=False)
    cancel_job(store, job)
    send = Sender()
    deliver_due(store, [KEY], send)
    assert send.sent[0][1]["state"] == "cancelled"


def test_many_who_look_at_once_tell_it_once(store):
    job = stored(store)
    send = Sender()
    threads = [threading.Thread(target=deliver_due, args=(store, [KEY], send)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(send.sent) == 1
    assert state(store, job) == [("url", "delivered", 1, None)]


def test_a_url_is_tried_again_by_its_waits_and_then_given_up(store):
    job = stored(store)
    send = Sender(*["answered 500"] * 20)
    for tried in range(1, len(WAITS) + 1):
        deliver_due(store, [KEY], send)
        deliver_due(store, [KEY], send)  # not due yet
        assert state(store, job) == [("url", "waiting", tried, "answered 500")]
        ((wait,),) = rows_of(store, f"SELECT due_at - {store.now} FROM deliveries")
        assert wait == pytest.approx(WAITS[tried - 1], abs=3)
        due_now(store)
    deliver_due(store, [KEY], send)
    due_now(store)
    deliver_due(store, [KEY], send)
    assert state(store, job) == [("url", "failed", len(WAITS) + 1, "answered 500")]
    assert len(send.sent) == len(WAITS) + 1
    assert len({delivery.id for delivery, _ in send.sent}) == 1  # by which a receiver knows the same one again


def test_a_command_is_never_run_twice(store):
    """Whoever runs it may die in the middle: nobody knows then how far it came."""
    failed, died = stored(store, (COMMAND, KEY)), stored(store, (COMMAND, KEY))
    execute(store, "UPDATE deliveries SET attempts = 1, leased_until = 1 WHERE job_id = :job", job=died)
    send = Sender("exit code 1")
    for _ in range(2):
        deliver_due(store, [KEY], send)
        due_now(store)
    assert [delivery.job_id for delivery, _ in send.sent] == [failed]
    assert state(store, failed) == [("command", "failed", 1, "exit code 1")]
    assert state(store, died)[0][:3] == ("command", "failed", 2)


def test_what_was_only_written_into_the_database_is_not_run(store):
    """Who can write to the database could else have any command run as the user of any worker."""
    job = stored(store, (COMMAND, KEY), (URL, KEY))
    execute(store, "UPDATE deliveries SET target = 'evil'")
    send = Sender()
    deliver_due(store, [KEY], send)
    assert send.sent == []
    refused = "was not stored by who has the key"
    assert state(store, job) == [("command", "failed", 1, refused), ("url", "failed", 1, refused)]


def test_it_is_left_to_those_who_have_the_key(store):
    job = stored(store)
    send = Sender()
    deliver_due(store, [OTHER], send)
    deliver_due(store, [], send)
    assert state(store, job) == [("url", "waiting", 0, None)]
    deliver_due(store, [OTHER, KEY], send)
    assert len(send.sent) == 1


def test_it_waits_for_the_results_of_endmark_run_but_not_for_ever(store):
    job, lost = stored(store), stored(store)
    for key, item in (("a", job), ("b", lost)):
        remember_run(store, key, item)
    send = Sender()
    deliver_due(store, [KEY], send)
    assert send.sent == []
    forget_run(store, job)
    execute(store, "UPDATE jobs SET finished_at = finished_at - 601 WHERE id = :job", job=lost)
    deliver_due(store, [KEY], send)
    assert {delivery.job_id for delivery, _ in send.sent} == {job, lost}


def test_the_command_of_one_job_is_told_at_once_and_others_wait(store):
    job, other = stored(store), stored(store)
    for key, item in (("a", job), ("b", other)):
        remember_run(store, key, item)
    send = Sender("answered 503")
    for _ in range(2):  # the second try does not wait until it is due
        deliver_due(store, [KEY], send, job_id=job)
    assert [delivery.job_id for delivery, _ in send.sent] == [job, job]
    assert state(store, job) == [("url", "delivered", 2, None)]


def test_deliveries_go_with_their_job(store):
    job = stored(store)
    delete_job(store, job)
    assert rows_of(store, "SELECT * FROM deliveries") == []
