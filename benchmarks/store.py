"""The ledger beside bare loops over the same data: submit, export, `status`, and the memory of the client.

`python benchmarks/store.py --rows 1000000` runs both databases (Postgres from the wheel that the tests use, or
`--postgres URL` of an empty database) and prints one line a measurement, with the least that it should reach.
"""

import argparse
import csv
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.store_loops import writers  # noqa: E402
from endmark.db.connection import open_store  # noqa: E402
from endmark.db.jobs import add_rows, begin_job, finish_submission  # noqa: E402
from endmark.jobs.spec import GenerationSpec  # noqa: E402

LOOPS = Path(__file__).with_name("store_loops.py")
ENDMARK = Path(sys.executable).with_name("endmark")
WORDS = "a day in the old town by the river with bread, wine and a long walk under plane trees".split()
BUSY_ROWS = 1_000_000  # more than four writers store meanwhile
STATUS_RUNS = 9
_LOOK_EVERY = 0.02  # seconds between looks at a process's memory
_FILL = """
INSERT INTO attempts (job_id, row, attempt, round, final, text, finish_reason, eos_source, prompt_tokens,
                      completion_tokens, eos_prob_max, eos_step_max, eos_rank_max, eos_hidden_steps, strategies,
                      ending)
SELECT job_id, row, 1, 0, true, 'An answer, as long as answers are. ' || cells, 'eos', 'natural', 128, 224, 0.75,
       223, 0, 0, 'baseline', 'sentence' FROM rows WHERE job_id = :job
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One process that has ended."""

    out: str
    seconds: float
    peak: float  # MB
    spent: float  # seconds of processor time, of the process alone: a server's are not among them


def run(*words: object, url: str, home: Path) -> Run:
    """Run a command to its end; return what it printed, its time as a whole and its peak memory."""
    environment = {**os.environ, "ENDMARK_HOME": str(home), "ENDMARK_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [str(word) for word in words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    peaks = [0.0]
    watcher = threading.Thread(target=watch_memory, args=(process.pid, peaks))
    watcher.start()
    out, _ = process.communicate()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{words} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(out, seconds, peaks[-1], spent)


def watch_memory(process: int, peaks: list[float]) -> None:
    """Note a process's peak memory until it ends; what `wait4` tells begins with the peak of whoever forked it."""
    while True:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
        if found is None:  # it has ended
            return
        peaks.append(int(found[1]) / 1000)
        time.sleep(_LOOK_EVERY)


def write_dataset(path: Path, rows: int, characters: int) -> None:
    """Write a CSV of ids and prompts."""
    rng = random.Random(7)
    text = " ".join(rng.choice(WORDS) for _ in range(20_000))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt"])
        for row in range(rows):
            begin = rng.randrange(len(text) - characters)
            writer.writerow([f"row-{row}", text[begin : begin + characters]])


def report(dialect: str, what: str, ours: str, bare: str, value: float, wanted: str) -> None:
    """Print one measurement."""
    print(f"{dialect:<10} {what:<26} {ours:>16} {bare:>16} {value:>8.2f}  {wanted}", flush=True)


def compare(dialect: str, what: str, rows: int, pairs: list[tuple[Run, Run]], wanted: str) -> None:
    """Print how ours and the bare loop did in turns: medians of the rates, and of the ratios of neighbours."""
    ours, bare = zip(*pairs, strict=True)
    times = [(mine.seconds, float(other.out)) for mine, other in pairs]
    spent = [(mine.spent, other.spent) for mine, other in pairs]
    medians = (rows / statistics.median(item) for item in zip(*times, strict=True))
    ratio = statistics.median(other / mine for mine, other in times)
    report(dialect, f"{what}, rows/s", *(f"{value:,.0f}" for value in medians), ratio, wanted)
    medians = (1e6 * statistics.median(item) / rows for item in zip(*spent, strict=True))
    ratio = statistics.median(other / mine for mine, other in spent)
    report(dialect, f"{what}, processor µs/row", *(f"{value:.1f}" for value in medians), ratio, "")
    peak = max(item.peak for item in ours)
    report(dialect, f"{what}, client MB", f"{peak:,.0f}", f"{max(item.peak for item in bare):,.0f}", peak, "< 200")


def measure(url: str, folder: Path, dataset: Path, rows: int, turns: int) -> None:
    """Measure one database."""
    dialect, home = url.partition(":")[0], folder / "home"

    def loop(*words: object) -> Run:
        return run(sys.executable, LOOPS, *words, url=url, home=home)

    def ours(*words: object) -> Run:
        return run(ENDMARK, *words, url=url, home=home)

    load = ("insert", url, dataset)
    stored = [(ours("submit", dataset, "--model", "bench/m"), loop(*load)) for _ in range(turns)]
    compare(dialect, "submit", rows, stored, ">= 0.6")
    job = stored[-1][0].out.strip()
    answer_all(url, job)
    cursor = ("export", url, job, folder / "bare.csv")
    written = [(ours("export", job, "-o", folder / "results.csv"), loop(*cursor)) for _ in range(turns)]
    compare(dialect, "export", rows, written, ">= 1.0")
    check(folder / "results.csv", rows)
    measure_status(url, dialect, home, job)


def answer_all(url: str, job: str) -> None:
    """Give every row an answer, past the workers."""
    from sqlalchemy import text

    with open_store(url) as store, store.writer.begin() as connection:
        connection.execute(text(_FILL), {"job": job})
        connection.execute(
            text(
                "UPDATE shards SET state = 'done', succeeded = end_row - first_row,"
                " eos_natural = end_row - first_row, completion_tokens = 224 * (end_row - first_row)"
                " WHERE job_id = :job"
            ),
            {"job": job},
        )
        connection.execute(text("UPDATE jobs SET state = 'completed' WHERE id = :job"), {"job": job})


def check(path: Path, rows: int) -> None:
    """Make sure that every row came out, in order."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        count = 0
        for count, item in enumerate(reader, start=1):
            if item["row"] != str(count - 1) or item["finish_reason"] != "eos":
                raise SystemExit(f"row {count - 1} is wrong: {item}")
    if count != rows:
        raise SystemExit(f"{count} rows came out of {rows}")


def measure_status(url: str, dialect: str, home: Path, job: str) -> None:
    """Time `endmark status JOB --json` beside a bare import, in turns, while four workers write."""
    fill_busy(url)
    with writers(url):
        ours, bare = [], []
        for _ in range(STATUS_RUNS):
            found = run(ENDMARK, "status", job, "--json", url=url, home=home)
            if json.loads(found.out)["state"] != "completed":
                raise SystemExit("the job is not complete")
            ours.append(found.seconds)
            bare.append(run(sys.executable, "-c", "import sqlalchemy.orm", url=url, home=home).seconds)
    mine, other = statistics.median(ours), statistics.median(bare)
    report(dialect, "status, ms", f"{1000 * mine:,.0f}", f"{1000 * other:,.0f}", mine / other, "<= 3")


def fill_busy(url: str) -> None:
    """Store a job for the writers."""
    with open_store(url) as store:
        job = begin_job(store, name="busy", spec=GenerationSpec(model="busy"))
        for first in range(0, BUSY_ROWS, 5000):
            add_rows(store, job, first, ['["a prompt"]'] * 5000)
        finish_submission(store, job, columns=("prompt",), total=BUSY_ROWS, shard_size=400)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--turns", type=int, default=3, help="of the bare loop and ours, of which medians are told"
    )
    parser.add_argument("--characters", type=int, default=1000, help="of a prompt")
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgres"), default=("sqlite", "postgres"))
    parser.add_argument("--postgres", help="URL of an empty database; by default a server is started")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="endmark-store-") as name:
        folder = Path(name)
        dataset = folder / "dataset.csv"
        write_dataset(dataset, options.rows, options.characters)
        print(
            f"{options.rows:,} rows of {options.characters:,} characters, {dataset.stat().st_size / 1e6:,.0f} MB"
        )
        print(f"{'database':<10} {'what':<26} {'endmark':>16} {'bare':>16} {'ratio':>8}  wanted")
        if "sqlite" in options.databases:
            measure(f"sqlite:///{folder / 'ledger.db'}", folder, dataset, options.rows, options.turns)
            (folder / "ledger.db").unlink()
        if "postgres" in options.databases:
            measure_postgres(options.postgres, folder, dataset, options.rows, options.turns)


def measure_postgres(url: str | None, folder: Path, dataset: Path, rows: int, turns: int) -> None:
    """Measure Postgres, on a server of our own if no URL is given."""
    from endmark.db.connection import upgrade

    if url is not None:
        upgrade(url)
        measure(url, folder, dataset, rows, turns)
        return
    from tests.integration.postgres_server import PostgresServer

    server = PostgresServer()
    try:
        url = server.create()
        upgrade(url)
        measure(url, folder, dataset, rows, turns)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
