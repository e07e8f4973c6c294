"""The checker finds every planted bug, by the right name, and nothing where nothing is wrong."""

import contextlib
import threading
import time
from dataclasses import replace

import pytest

from endmark.db.connection import open_store
from tests.cluster.bugs import BUGS
from tests.cluster.checker import _progress, check
from tests.cluster.recording import Recorder, read_events, watch_ledger
from tests.cluster.scripted import answer_of, numbered_script
from tests.integration.service_fixtures import QUICKLY, Worker, shards_of, state_of, submit, wait_until

pytestmark = pytest.mark.integration

LEASE = 0.6
ROWS = 24
PACE = replace(QUICKLY, lease=LEASE, heartbeat=LEASE / 6)


def two_workers(folder, bug):
    """One worker freezes with a lease while another takes over, then goes on; return what the checker says.

    Args:
        bug: the context in which the second worker runs, and the first one's return.
    """
    with open_store(f"sqlite:///{folder / 'ledger.db'}") as store:
        watch_ledger(store)
        recorder = Recorder(folder / "history.jsonl")
        gate, opened = threading.Event(), threading.Event()

        def frozen(tokens):
            gate.wait()
            return numbered_script(tokens)

        def slow(tokens):  # a shard takes longer than a lease
            opened.wait()
            time.sleep(LEASE / 100)
            return numbered_script(tokens)

        job = submit(store, [f"place {row}" for row in range(ROWS)], shard_size=ROWS // 2)
        with bug() as _, contextlib.ExitStack() as stack:
            recorder.install()
            stack.callback(recorder.remove)
            began = time.monotonic()
            first = Worker(store, script=frozen, name="first:1", pace=replace(PACE, heartbeat=3600.0))
            stack.callback(first.drain, 0)
            wait_until(lambda: any(state == "running" for state, _, _ in shards_of(store, job)))
            second = Worker(store, script=slow, name="second:2", pace=PACE)
            stack.callback(second.drain, 0)
            opened.set()
            wait_until(lambda: any(claims > 1 for _, _, claims in shards_of(store, job)))
            gate.set()
            with contextlib.suppress(AssertionError):  # some bugs never let it end
                wait_until(lambda: state_of(store, job).is_final, 4)
            ended = time.monotonic()
            wait_until(lambda: not first.service._in_flight.shards() or time.monotonic() > ended + 3, 10)
        events = read_events([folder / "history.jsonl"])
        expected = {(job, row): answer_of(f"place {row}") for row in range(ROWS)}
        return check(store, events, expected, lease=LEASE, faults=[(began, ended, "first")])


def test_it_is_content_where_nothing_is_wrong(tmp_path):
    assert two_workers(tmp_path, contextlib.nullcontext) == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_it_finds_a_planted_bug(tmp_path, bug):
    wrong = two_workers(tmp_path, bug)
    assert any(BUGS[bug] in line for line in wrong), wrong


@pytest.mark.parametrize(("survivor", "slow"), [(False, False), (True, True)])
def test_what_a_start_takes_counts_only_where_a_worker_lived_through_the_faults(survivor, slow):
    """Where all were killed, a busy machine that took nine seconds to start them again was said to be stuck."""

    def event(what, at, pid):
        return {"what": what, "at": at, "host": "one", "pid": pid, "phase": "done"}

    events = [
        event("started", 0.0, 1),
        event("started", 19.0, 2),
        event("claim", 19.5, 2),
        event("commit", 20.0, 2),
    ]
    if survivor:
        events.append(event("claim", 11.0, 1))
    assert bool(list(_progress(events, 2.0, [(5.0, 10.0, "*")]))) == slow
