"""How far one Postgres carries a fleet: the ledger's own calls are measured, then workers run in virtual time.

`python benchmarks/fleet.py` measures what each call of a worker takes of the server's processor and how many times
it waits for an answer, on a ledger where the largest fleet holds its shards. Then fleets of `--workers` do in
virtual time what workers do, against a Postgres of `--cores` processors, `--round-trip` milliseconds away.

It prints how busy the server is, what is waited for, and how many calls are under way at once, which is how many
connections a pooler needs. What is measured is of the wheel that the tests use; disks are taken to be fast enough.
"""

import argparse
import heapq
import random
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import event

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ledger_scale import fill, fleet  # noqa: E402
from endmark.db import shards  # noqa: E402
from endmark.db.attempts import commit  # noqa: E402
from endmark.db.connection import Store, open_store  # noqa: E402
from endmark.db.rows import unfinished_rows  # noqa: E402
from endmark.db.workers import report_worker  # noqa: E402
from endmark.jobs.progress import WorkerReport  # noqa: E402
from endmark.jobs.spelling import as_percent  # noqa: E402
from endmark.jobs.vocabulary import Attempt, EosSource, FinishReason, Outcome, Verdict  # noqa: E402
from endmark.worker.service.service import Pace  # noqa: E402

SHARD = 1000  # rows
_BATCH, _MOST, _OLDEST = (
    32,
    256,
    0.5,
)  # as the writer's: rows that begin a commit, rows of one, seconds that one waits
_FEW, _MANY = 16, 256  # rows of the commits that are measured
_SHARDS = 4  # that are answered with each of these
_CALLS = 100
_DUE, _ENDED, _UNLOCKED = range(3)  # what happens in virtual time
_LOCKED = ("claim", "finish")  # calls that hold the row of their job


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call takes."""

    server: float  # seconds of the server's processor
    trips: float  # times that its client waits for an answer


def _spent(server: int) -> float:
    """Return the seconds of the processor that a server's own children have taken so far, to the nanosecond."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return sum(int(Path(f"/proc/{child}/schedstat").read_text().split()[0]) for child in children) / 1e9


class Meter:
    """Adds up what calls of each kind take."""

    def __init__(self, store: Store, server: int) -> None:
        self._server = server
        self._trips = 0
        self._found: dict[str, list[tuple[int, float, int]]] = {}
        for engine in (store.reader, store.writer):
            event.listen(engine, "before_cursor_execute", self._count)
            event.listen(engine, "commit", self._count)

    def _count(self, *_: object) -> None:
        self._trips += 1

    @contextmanager
    def calls(self, kind: str, count: int) -> Iterator[None]:
        """Measure so many calls of a kind, made inside."""
        before, trips = _spent(self._server), self._trips
        yield
        spent = _spent(self._server) - before
        self._found.setdefault(kind, []).append((count, spent, self._trips - trips))

    def costs(self) -> dict[str, Cost]:
        """Return the cost of one call of each kind."""
        costs = {}
        for kind, found in self._found.items():
            count, spent, trips = (sum(column) for column in zip(*found, strict=True))
            costs[kind] = Cost(spent / count, trips / count)
        return costs


def measured(store: Store, server: int, workers: int) -> dict[str, Cost]:
    """Return what the calls of a worker cost while so many of them hold shards."""
    busy = fill(store, "busy", 2 * SHARD * _SHARDS, size=SHARD)
    held = fleet(store, workers)
    meter = Meter(store, server)
    report = WorkerReport("host-0:0", "cuda", "fleet", None, "packed", 1000.0)
    with meter.calls("report", _CALLS):
        _repeat(lambda _: report_worker(store, report))
    with meter.calls("heartbeat", _CALLS):
        _repeat(lambda number: shards.heartbeat(store, held[number % workers], lease_seconds=3600))
    with meter.calls("reap", _CALLS):
        _repeat(lambda _: shards.reap(store))
    for _ in range(_CALLS):
        with meter.calls("claim", 1):
            lease = shards.claim(store, worker="probe:1", model="busy", adapter=None)
        assert lease is not None
        assert lease.key.job_id == busy
        shards.release(store, lease)
    for size in [_FEW] * _SHARDS + [_MANY] * _SHARDS:
        _answer(store, meter, size)
    return meter.costs()


def _repeat(call: Callable[[int], object]) -> None:
    for number in range(_CALLS):
        call(number)


def _answer(store: Store, meter: Meter, size: int) -> None:
    """Read a shard's rows, store them with so many a commit, and close it."""
    verdict = Verdict(FinishReason.EOS, eos_source=EosSource.NATURAL)
    lease = shards.claim(store, worker="probe:1", model="busy", adapter=None)
    assert lease is not None
    with meter.calls("rows", 1):
        rows = [item.row for item in unfinished_rows(store, lease)]
    outcomes = [Outcome(0, (Attempt(row, 1, "an answer " * 40, verdict, 50, 80),)) for row in rows]
    parts = [outcomes[first : first + size] for first in range(0, len(outcomes), size)]
    with meter.calls(f"commit of {size}", len(parts)):
        for part in parts:
            commit(store, lease, part)
    with meter.calls("finish", 1):
        shards.finish(store, lease)


def calls_of(rate: float) -> tuple[dict[str, float], float]:
    """Return after how many seconds a worker makes each call again, and the rows of a commit.

    Args:
        rate: rows that it answers a second.
    """
    pace = Pace()
    rows = min(max(rate * _OLDEST, 1.0), _BATCH)
    shard = SHARD / rate
    every = {"report": pace.report, "heartbeat": pace.heartbeat, "reap": pace.reap, "commit": rows / rate}
    return {**every, "claim": shard, "rows": shard, "finish": shard}, rows


class VirtualServer:
    """A server in virtual time: calls wait for a processor, and some for their job's row.

    Args:
        costs: of one call, by kind.
        cores: its processors.
        trip: seconds from a client to it and back.
    """

    def __init__(self, costs: Mapping[str, Cost], cores: int, trip: float) -> None:
        self._costs, self._trip = costs, trip
        self._free = [0.0] * cores  # when each processor is
        self._queues: dict[int, deque[tuple[float, str]]] = {}  # by locked job: who waits for it, and since when
        self.waits: dict[str, list[float]] = defaultdict(list)  # seconds, by kind
        self.spent = 0.0  # seconds of processors
        self.under_way = self.most = 0  # calls at once

    def ask(self, kind: str, job: int, now: float) -> tuple[float, bool] | None:
        """Take a call; return when it has been answered and whether it holds its job's row until then.

        One that waits for its job's row gives None.
        """
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if kind in _LOCKED and job in self._queues:
            self._queues[job].append((now, kind))
            return None
        if kind in _LOCKED:
            self._queues[job] = deque()
        return self._begin(kind, now, now), kind in _LOCKED

    def _begin(self, kind: str, asked: float, now: float) -> float:
        """Let a call have a processor; return when it has been answered."""
        began = max(now, self._free[0])
        cost = self._costs[kind]
        heapq.heapreplace(self._free, began + cost.server)
        self.spent += cost.server
        self.waits[kind].append(began - asked)
        return began + cost.server + cost.trips * self._trip

    def end(self, job: int, now: float, *, locked: bool) -> float | None:
        """End a call; return when the one that waited for the same row has been answered."""
        self.under_way -= 1
        if not locked:
            return None
        if not self._queues[job]:
            del self._queues[job]
            return None
        asked, kind = self._queues[job].popleft()
        return self._begin(kind, asked, now)


def run(server: VirtualServer, every: Mapping[str, float], workers: int, *, jobs: int, seconds: float) -> None:
    """Let a fleet work in virtual time.

    Args:
        every: seconds between two calls of a kind of one worker.
        jobs: from which the workers take shards, in equal parts.
        seconds: for how long.
    """
    chance = random.Random(7)
    calls = [(kind, worker % jobs) for worker in range(workers) for kind in every]
    events = [(chance.uniform(0, every[kind]), number, _DUE) for number, (kind, _) in enumerate(calls)]
    heapq.heapify(events)
    while events[0][0] < seconds:
        now, number, what = heapq.heappop(events)
        if what == _DUE:
            kind, job = calls[number]
            heapq.heappush(events, (now + every[kind], number, _DUE))
            found = server.ask(kind, job, now)
            if found is not None:
                heapq.heappush(events, (found[0], job, _UNLOCKED if found[1] else _ENDED))
            continue
        ends = server.end(number, now, locked=what == _UNLOCKED)
        if ends is not None:
            heapq.heappush(events, (ends, number, _UNLOCKED))


def with_commit(costs: Mapping[str, Cost], rows: float) -> dict[str, Cost]:
    """Return the costs with that of a commit of so many rows, from those of few and of many."""
    few, many = costs[f"commit of {_FEW}"], costs[f"commit of {_MANY}"]
    a_row = max(0.0, (many.server - few.server) / (_MANY - _FEW))
    return {**costs, "commit": Cost(few.server + (rows - _FEW) * a_row, few.trips)}


def show(costs: Mapping[str, Cost], options: argparse.Namespace) -> None:
    """Print the costs, and what comes of each fleet."""
    print(f"{'call':<16} {'server, µs':>11} {'round trips':>12}")
    for kind, cost in sorted(costs.items()):
        print(f"{kind:<16} {1e6 * cost.server:>11,.0f} {cost.trips:>12.1f}")
    every, rows = calls_of(options.rate)
    print(f"\n{options.rate:g} rows/s a worker, {rows:.0f} a commit; {options.jobs} jobs", end="; ")
    print(f"{options.cores} processors, {options.round_trip:g} ms away; ms waited: median, 98 of 100 within")
    print(f"{'workers':>8} {'rows/s':>9} {'busy':>6} {'a commit':>14} {'a claim':>14} {'calls at once':>14}")
    for workers in options.workers:
        server = VirtualServer(with_commit(costs, rows), options.cores, options.round_trip / 1000)
        run(server, every, workers, jobs=options.jobs, seconds=options.seconds)
        busy = server.spent / (options.cores * options.seconds)
        commits, claims = (_waited(server.waits[kind]) for kind in ("commit", "claim"))
        rate = workers * options.rate
        print(f"{workers:>8,} {rate:>9,.0f} {as_percent(busy):>7} {commits:>14} {claims:>14} {server.most:>14,}")


def _waited(times: list[float]) -> str:
    """Return the median of waits and the longest but one of fifty, in milliseconds."""
    ordered = sorted(times)
    return f"{1000 * statistics.median(ordered):,.1f}, {1000 * ordered[int(0.98 * (len(ordered) - 1))]:,.1f}"


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=(100, 300, 1000))
    parser.add_argument("--rate", type=float, default=30.0, help="rows a second that a worker answers")
    parser.add_argument("--jobs", type=int, default=1, help="that they take their shards from")
    parser.add_argument("--cores", type=int, default=16, help="processors of the server")
    parser.add_argument("--round-trip", type=float, default=0.5, help="milliseconds to the server and back")
    parser.add_argument("--seconds", type=float, default=120.0, help="of virtual time")
    options = parser.parse_args()
    from tests.integration.postgres_server import PostgresServer

    server = PostgresServer()
    try:
        with open_store(server.create(), upgrade=True) as store:
            costs = measured(store, server.pid, max(options.workers))
    finally:
        server.remove()
    show(costs, options)


if __name__ == "__main__":
    main()
