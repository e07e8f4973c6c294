"""What the ledger costs at scale: claims, heartbeats, `status` and stored rows, among many rows, jobs and workers.

`python benchmarks/ledger_scale.py --rows 1000000` runs both databases (Postgres from the wheel that the tests use)
and prints a line a measurement. Times are of calls from one process, with the database on the same machine.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

from sqlalchemy import text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.store_loops import WRITERS, writers  # noqa: E402
from endmark.db import shards  # noqa: E402
from endmark.db.connection import Store, open_store  # noqa: E402
from endmark.db.jobs import add_rows, begin_job, finish_submission  # noqa: E402
from endmark.db.progress import all_statuses, job_status  # noqa: E402
from endmark.db.workers import report_worker  # noqa: E402
from endmark.jobs.progress import WorkerReport  # noqa: E402
from endmark.jobs.shards import shard_size  # noqa: E402
from endmark.jobs.spec import GenerationSpec  # noqa: E402
from endmark.jobs.vocabulary import Lease  # noqa: E402

_BATCH = 5000
_CALLS = 50


def fill(store: Store, model: str, rows: int, *, size: int | None = None) -> str:
    """Store a job of that many rows; return its id."""
    job = begin_job(store, name=model, spec=GenerationSpec(model=model))
    for first in range(0, rows, _BATCH):
        count = min(_BATCH, rows - first)
        add_rows(
            store, job, first, [json.dumps([f"What can I do in place {first + row}?"]) for row in range(count)]
        )
    finish_submission(store, job, columns=("prompt",), total=rows, shard_size=size or shard_size(rows))
    return job


def say(store: Store, what: str, value: float, unit: str) -> None:
    """Print one measurement."""
    print(f"{store.dialect:<11} {what:<58} {value:>12,.1f} {unit}", flush=True)


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def say_times(store: Store, what: str, times: list[float]) -> None:
    """Print the median and the slowest but one of a hundred."""
    ordered = sorted(times)
    say(store, f"{what}, median", statistics.median(ordered), "ms")
    say(store, f"{what}, 98 of 100 within", ordered[int(0.98 * (len(ordered) - 1))], "ms")


def turns(store: Store, model: str) -> list[float]:
    """Claim shards and give them back; return the milliseconds of the claims."""
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        lease = shards.claim(store, worker="probe:1", model=model, adapter=None)
        times.append(1000 * (time.perf_counter() - began))
        if lease is None:
            raise SystemExit(f"no shard of `{model}` is left")
        shards.release(store, lease)
    return times


def fleet(store: Store, workers: int) -> list[list[Lease]]:
    """Let so many workers report themselves and hold two shards each; return their leases."""
    fill(store, "fleet", 4 * workers, size=2)
    held = []
    for number in range(workers):
        name = f"host-{number // 8}:{number}"
        report_worker(store, WorkerReport(name, "cuda", "fleet", None, "packed", 1000.0))
        leases = (
            shards.claim(store, worker=name, model="fleet", adapter=None, lease_seconds=3600) for _ in range(2)
        )
        held.append([lease for lease in leases if lease is not None])
    return held


def stored(store: Store, job: str) -> int:
    """Return how many rows of a job have an answer."""
    return job_status(store, job).succeeded


def processor_seconds(processes: Collection[int], server: int | None) -> float:
    """Return the processor time that processes and a server's own children have taken so far."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            numbers = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if int(path.parent.name) in processes or int(numbers[1]) == server:
            ticks += int(numbers[11]) + int(numbers[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(url: str, options: argparse.Namespace, server: int | None = None) -> None:
    """Measure one database.

    Args:
        server: the process id of its server; None where it has none.
    """
    with open_store(url, upgrade=True) as store:
        began = time.perf_counter()
        busy = fill(store, "busy", options.rows)
        say(store, f"rows submitted, of {options.rows:,}", options.rows / (time.perf_counter() - began), "rows/s")
        for _ in range(options.jobs):
            fill(store, "many", 4)
        held = fleet(store, options.workers)
        with store.writer.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
        say_times(store, f"a claim of {options.rows:,} rows", turns(store, "busy"))
        say_times(store, f"a claim among {options.jobs:,} jobs", turns(store, "many"))
        beats = [
            timed(lambda leases=leases: shards.heartbeat(store, leases, lease_seconds=3600)) for leases in held
        ]  # type: ignore[misc]
        say_times(store, f"a heartbeat, with {options.workers:,} workers", beats)
        say(store, f"`status` of one job of {options.rows:,} rows", timed(lambda: job_status(store, busy)), "ms")
        say(store, f"`status` of {options.jobs + 2:,} jobs", timed(lambda: all_statuses(store)), "ms")
        with writers(url) as processes:
            before, began = stored(store, busy), time.perf_counter()
            taken = processor_seconds(processes, server)
            time.sleep(options.seconds / 2)
            claims = turns(store, "many")
            time.sleep(max(0.0, options.seconds - (time.perf_counter() - began)))
            taken = processor_seconds(processes, server) - taken
            count = stored(store, busy) - before
            rate = count / (time.perf_counter() - began)
        say(store, f"rows stored by {WRITERS} writers", rate, "rows/s")
        say(store, "processor time a stored row, server and writers", 1e6 * taken / count, "µs")
        say_times(store, "a claim while they write", claims)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{'':<11} {'peak memory of this client so far':<58} {peak:>12,.1f} MB", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=1000, help="that wait beside it, of four rows each")
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0, help="for which four writers write")
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgres"), default=("sqlite", "postgres"))
    options = parser.parse_args()
    if "sqlite" in options.databases:
        with tempfile.TemporaryDirectory(prefix="endmark-scale-") as folder:
            measure(f"sqlite:///{folder}/ledger.db", options)
    if "postgres" in options.databases:
        from tests.integration.postgres_server import PostgresServer

        server = PostgresServer()
        try:
            measure(server.create(), options, server.pid)
        finally:
            server.remove()


if __name__ == "__main__":
    main()
