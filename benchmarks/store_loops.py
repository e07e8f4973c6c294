"""The bare loops that `benchmarks/store.py` compares with, and the writers that keep the ledger busy.

Each runs as a process of its own, by `python benchmarks/store_loops.py NAME URL …`, and prints its seconds.
"""

import csv
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

ROOT = Path(__file__).resolve().parent.parent
WRITERS = 4
AT_ONCE = 256  # rows a commit, the most that a worker takes
BATCH = 2000
_TABLE = "CREATE TABLE bare (job_id varchar(16), row bigint, cells text, PRIMARY KEY (job_id, row))"
_JOINED = (
    "SELECT r.row, r.cells, a.text, a.finish_reason, a.eos_source, a.stop_sequence, a.prompt_tokens,"
    " a.completion_tokens, a.attempt, a.eos_prob_max, a.error FROM rows r"
    " JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row WHERE r.job_id = '{job}' ORDER BY r.row"
)


def insert(url: str, dataset: str) -> float:
    """Read the dataset and insert its rows, a batch a transaction, without a check and into one bare table."""
    started = time.perf_counter()
    if url.startswith("sqlite"):
        link = sqlite3.connect(make_url(url).database or "", isolation_level=None)
        link.execute("PRAGMA journal_mode=WAL")
        link.execute("PRAGMA synchronous=NORMAL")
        link.execute(_TABLE)
        for batch in _batches(dataset):
            link.execute("BEGIN IMMEDIATE")
            link.executemany("INSERT INTO bare VALUES (?, ?, ?)", batch)
            link.execute("COMMIT")
        seconds = time.perf_counter() - started
        link.execute("DROP TABLE bare")
        link.close()
        return seconds
    import psycopg

    with psycopg.connect(url, autocommit=True) as server:
        server.execute(_TABLE)
        for batch in _batches(dataset):
            with (
                server.transaction(),
                server.cursor() as cursor,
                cursor.copy("COPY bare FROM STDIN") as copy,
            ):
                for item in batch:
                    copy.write_row(item)
        seconds = time.perf_counter() - started
        server.execute("DROP TABLE bare")
    return seconds


def _batches(dataset: str) -> Iterator[list[tuple[str, int, str]]]:
    """Return the rows as the ledger holds them."""
    with Path(dataset).open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        numbered = ((("0" * 8), row, json.dumps(cells)) for row, cells in enumerate(reader))
        while batch := list(itertools.islice(numbered, BATCH)):
            yield batch


def export(url: str, job: str, output: str) -> float:
    """Write the rows with their results by one cursor and `csv.writer`."""
    began = time.perf_counter()
    with Path(output).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if url.startswith("sqlite"):
            link = sqlite3.connect(make_url(url).database or "")
            writer.writerows(link.execute(_JOINED.format(job=job)))
            link.close()
        else:
            import psycopg

            with psycopg.connect(url) as server, server.cursor(name="bare") as cursor:
                cursor.itersize = BATCH
                cursor.execute(_JOINED.format(job=job))
                writer.writerows(cursor)
    return time.perf_counter() - began


@contextmanager
def writers(url: str) -> Iterator[list[int]]:
    """Let four processes claim shards of the model `busy` and store answers as a worker does; give their ids.

    Raises:
        SystemExit: one of them ended too early.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, __file__, "write", url]
    processes = [
        subprocess.Popen([*words, f"writer:{number}"], env=environment, stdout=subprocess.PIPE)
        for number in range(WRITERS)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield [process.pid for process in processes]
        if any(process.poll() is not None for process in processes):
            raise SystemExit("a writer ended before the measurement did")
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def write_for_ever(url: str, name: str) -> float:
    """Claim shards and commit answers, as many at once as a worker that has many; then wait for a line."""
    from endmark.db.attempts import commit
    from endmark.db.connection import open_store
    from endmark.db.rows import unfinished_rows
    from endmark.db.shards import claim, finish
    from endmark.jobs.vocabulary import Attempt, EosSource, FinishReason, Outcome, Verdict

    verdict = Verdict(FinishReason.EOS, eos_source=EosSource.NATURAL)
    with open_store(url) as store:
        print("ready", flush=True)
        while (lease := claim(store, worker=name, model="busy", adapter=None)) is not None:
            rows = [item.row for item in unfinished_rows(store, lease)]
            for first in range(0, len(rows), AT_ONCE):
                part = rows[first : first + AT_ONCE]
                answers = [Outcome(0, (Attempt(row, 1, "an answer " * 40, verdict, 50, 80),)) for row in part]
                commit(store, lease, answers)
            finish(store, lease)
    print("done", flush=True)
    sys.stdin.readline()
    return 0.0


if __name__ == "__main__":
    loops = {"insert": insert, "export": export, "write": write_for_ever}
    print(loops[sys.argv[1]](*sys.argv[2:]))
