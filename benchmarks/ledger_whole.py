"""One large job through the ledger, whole: submitted, answered by four engines that answer at once, exported.

`python benchmarks/ledger_whole.py --rows 2000000` runs both databases (Postgres from the wheel that the tests use)
and prints a line a measurement. Rates are per second of the clock, on as much of the machine as is free; processor
time is of all processes that take part, the server's included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ledger_scale import fill, processor_seconds, say, say_times, turns  # noqa: E402
from benchmarks.store_loops import WRITERS  # noqa: E402
from endmark.db.connection import Store, open_store  # noqa: E402
from endmark.db.progress import job_status  # noqa: E402


def memory(process: int) -> float:
    """Return the most memory that a process has had, in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def measured(store: Store, what: str, rows: int, server: int | None, processes: list[int]) -> Callable[[], None]:
    """Return what prints the rate and the processor time of what is done between now and its call."""
    began, taken = time.perf_counter(), processor_seconds(processes, server)

    def done() -> None:
        spent = processor_seconds(processes, server) - taken
        say(store, f"rows {what}", rows / (time.perf_counter() - began), "rows/s")
        say(store, f"processor time of a row {what}", 1e6 * spent / rows, "µs")

    return done


def drain(store: Store, url: str, rows: int, server: int | None) -> None:
    """Have all rows answered; a writer that has found no shard for the last time waits to be measured."""
    words = [sys.executable, str(ROOT / "benchmarks" / "store_loops.py"), "write", url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    engines = [
        subprocess.Popen([*words, f"writer:{number}"], env=environment, **pipes) for number in range(WRITERS)
    ]
    for engine in engines:
        assert engine.stdout is not None
        engine.stdout.readline()
    done = measured(store, f"stored by {WRITERS} writers", rows, server, [engine.pid for engine in engines])
    for engine in engines:
        assert engine.stdout is not None
        engine.stdout.readline()
    done()
    say(store, "peak memory of a writer", max(memory(engine.pid) for engine in engines), "MB")
    for engine in engines:
        engine.communicate(b"\n")


def measure(url: str, rows: int, folder: Path, server: int | None = None) -> None:
    """Measure one database.

    Args:
        folder: for the exported file.
        server: the process id of its server; None where it has none.
    """
    here = os.getpid()
    with open_store(url, upgrade=True) as store:
        done = measured(store, f"submitted, of {rows:,}", rows, server, [here])
        job = fill(store, "busy", rows)
        done()
        fill(store, "few", 10_000)
        say_times(store, "a claim of 10,000 rows", turns(store, "few"))
        say_times(store, f"a claim of {rows:,} rows", turns(store, "busy"))
        drain(store, url, rows, server)
        began = time.perf_counter()
        found = job_status(store, job)
        say(store, "`status`, without the start of Python", 1000 * (time.perf_counter() - began), "ms")
        if found.succeeded != rows or not found.state.is_final:
            raise SystemExit(f"{found.succeeded:,} rows are answered, and the job is {found.state}")
        say_times(store, f"a claim of 10,000 rows, behind {rows:,} answers", turns(store, "few"))
    output = folder / f"{store.dialect}.csv"
    words = [sys.executable, "-m", "endmark.cli.main", "export", job, "-o", str(output)]
    began = time.perf_counter()
    process = subprocess.Popen(words, env={**os.environ, "ENDMARK_DATABASE_URL": url, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the export failed")
    say(store, "rows exported", rows / (time.perf_counter() - began), "rows/s")
    say(store, "processor time of a row exported", 1e6 * (usage.ru_utime + usage.ru_stime) / rows, "µs")
    say(store, "peak memory of the export", usage.ru_maxrss / 1000, "MB")
    say(store, "peak memory of the submission", memory(here), "MB")
    with output.open("rb") as file:
        if sum(1 for _ in file) != rows + 1:
            raise SystemExit("the file has not every row")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgres"), default=("sqlite", "postgres"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="endmark-whole-") as name:
        if "sqlite" in options.databases:
            measure(f"sqlite:///{name}/ledger.db", options.rows, Path(name))
        if "postgres" in options.databases:
            from tests.integration.postgres_server import PostgresServer

            server = PostgresServer()
            try:
                measure(server.create(), options.rows, Path(name), server.pid)
            finally:
                server.remove()


if __name__ == "__main__":
    main()
