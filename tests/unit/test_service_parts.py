"""Parts of the worker service that need no ledger: its pace, what is in flight, what a process says of itself."""

import threading
import time
from pathlib import Path

import pytest

from endmark.jobs.vocabulary import Lease, ShardKey
from endmark.worker.process.guarded import Guarded
from endmark.worker.process.periodic import Periodic
from endmark.worker.process.traces import described, write_trace
from endmark.worker.service.in_flight import InFlight, ShardRun
from endmark.worker.service.service import Pace
from endmark.worker.service.watchdog import Watchdog

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("lease", [3.0, 20.0, 60.0, 90.0, 600.0])
def test_a_lease_outlives_three_missed_heartbeats(lease):
    """A heartbeat as long as the lease let every shard be taken from a worker that lived."""
    pace = Pace.of(lease, 7.0)
    assert (pace.lease, pace.stall) == (lease, 7.0)
    assert 0 < 3 * pace.heartbeat < lease
    assert 0 < pace.reap <= lease / 4


def shard():
    return ShardRun(Lease(ShardKey("job", 0), 1, 0, 2, 1, "host:1"))


def test_rows_of_a_shard_that_is_held_no_longer_are_forgotten():
    """Their answers were still taken, and asked about again."""
    flight, held, other = InFlight(), shard(), shard()
    (key, row), (second, _) = flight.open(held, ["first", "second"])
    ((kept, _),) = flight.open(other, ["third"])
    assert flight.find(key) == (held, "first")
    assert (row, held.over.is_set()) == ("first", False)
    assert flight.close(held) == {key, second}
    assert flight.find(key) is None
    assert flight.find(second) is None
    assert flight.find(kept) == (other, "third")
    assert held.over.is_set()
    assert flight.close(held) is None
    assert flight.shards() == [other]


def test_settled_rows_are_forgotten_one_by_one():
    flight, held = InFlight(), shard()
    keys = [key for key, _ in flight.open(held, ["first", "second"])]
    assert not flight.settle(held, keys[:1])
    assert flight.find(keys[0]) is None
    assert flight.find(keys[1]) is not None
    assert flight.settle(held, keys[1:])


def test_a_shard_that_is_held_no_longer_is_not_done_with_the_rows_that_were_just_stored():
    """One given up while a commit was under way had no rows left, and was finished as if all had been stored.

    Where a database had lost its last second, the same worker could hold it again under the same fence by then.
    """
    flight, held = InFlight(), shard()
    keys = [key for key, _ in flight.open(held, ["first", "second"])]
    flight.close(held)
    assert not flight.settle(held, keys[:1])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\nlines"), "ValueError: two"),
        (KeyError(), "KeyError"),
        (RuntimeError("\n\n  late "), "RuntimeError: late"),
        (OSError("\x1b[31mred"), "OSError: \\x1b[31mred"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_any_exception_is_told_in_one_line(error, said):
    assert described(error) == said
    assert len(described(ValueError("x" * 9000))) < 400


def test_a_trace_is_kept_in_a_file_of_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path))
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        path = write_trace(error)
    assert path.startswith(str(tmp_path / "logs"))
    text = Path(path).read_text()
    assert "test_a_trace_is_kept" in text
    assert "ZeroDivisionError: by zero" in text


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(1), KeyboardInterrupt()])
def test_what_ends_a_thread_is_told(error, caplog):
    """The writer's thread ended alone, and leases were prolonged for ever."""
    told = []

    def work():
        raise error

    thread = Guarded("writer", work, lambda name, found: told.append((name, found)))
    thread.start()
    thread.join(60)
    assert told == [("writer", error)]
    assert "the thread `writer` broke" in caplog.text


def test_a_vital_thing_that_cannot_be_done_is_told(caplog):
    """A heartbeat with a bug in it went on and on, while its leases ran out."""
    told, told_at = threading.Event(), []
    calls = []

    def action():
        calls.append(1)
        raise ZeroDivisionError("by zero")

    def broken(name, error):
        told_at.append((name, len(calls), type(error)))
        told.set()

    periodic = Periodic("heartbeat", 0.001, action, broken=broken, vital=True)
    periodic.start()
    assert told.wait(60)
    periodic.stop()
    assert told_at[0] == ("heartbeat", 3, ZeroDivisionError)


def test_a_vital_thing_that_fails_now_and_then_goes_on():
    told, enough, calls = [], threading.Event(), []

    def action():
        calls.append(1)
        if len(calls) > 12:
            enough.set()
        if len(calls) % 3:
            raise ZeroDivisionError("by zero")

    periodic = Periodic("heartbeat", 0.001, action, broken=lambda *about: told.append(about), vital=True)
    periodic.start()
    assert enough.wait(60)
    periodic.stop()
    assert told == []


def test_the_watchdog_tells_of_a_thread_that_has_ended():
    told = threading.Event()
    names = []
    dog = Watchdog(
        lambda: None,
        100.0,
        interval=0.001,
        stalled=lambda _: None,
        broken=lambda name, _: (names.append(name), told.set()),
        ended=lambda: ["writer"],
    )
    dog.start()
    assert told.wait(60)
    dog.stop()
    assert names == ["writer"]


def test_a_watchdog_that_cannot_look_says_so():
    told = threading.Event()

    def look():
        raise RuntimeError("no such engine")

    dog = Watchdog(look, 100.0, interval=0.001, stalled=lambda _: None, broken=lambda *_: told.set())
    dog.start()
    assert told.wait(60)
    dog.stop()


def test_a_stalled_step_is_told_with_its_length():
    stalled, said = threading.Event(), []
    began = time.monotonic()
    dog = Watchdog(
        lambda: began,
        0.01,
        interval=0.002,
        stalled=lambda error: (said.append(str(error)), stalled.set()),
        broken=lambda *_: None,
    )
    dog.start()
    assert stalled.wait(60)
    dog.stop()
    assert said[0].startswith("the engine has stood still for ")
