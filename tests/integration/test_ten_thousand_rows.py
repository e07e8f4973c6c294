"""Ten thousand short rows from `submit` through a worker to `export`: none lost, none doubled, little memory."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.service_fixtures import jobs_until

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")
ROWS = 10_000
MOST_MEMORY = 200 * 1024  # kB


# A new program's peak memory begins at that of the process that started it, and the one that runs the tests
# is large: a small process of its own starts the command, and says what it took.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def command(home, *arguments, before=(), stderr=subprocess.PIPE):
    """Start one `endmark` process."""
    return subprocess.Popen(
        [*before, ENDMARK, *map(str, arguments)],
        env={**os.environ, "ENDMARK_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def finished(process):
    """Return what a process has printed when it has ended well."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def measured(home, *arguments):
    """Run one command; return what it printed and its peak memory."""
    peak = home.with_name("peak")
    out = finished(command(home, *arguments, before=(sys.executable, "-c", MEASURE, peak)))
    return out, int(peak.read_text())


def test_no_row_is_lost_or_doubled(tmp_path):
    dataset, results = tmp_path / "rows.csv", tmp_path / "results.csv"
    with dataset.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "prompt"])
        writer.writerows([f"r{row}", f"Tell me about place {row}."] for row in range(ROWS))
    home = tmp_path / "home"
    out, memory = measured(home, "submit", dataset, "--max-new-tokens", "4")
    assert memory < MOST_MEMORY
    job = out.strip()
    log = tmp_path / "worker.log"
    with log.open("w") as file:
        worker = command(home, "worker", "--gpus", "cpu", stderr=file)
    try:
        jobs_until(home / "endmark.db", lambda jobs: jobs[0].state.is_final or worker.poll() is not None, 500)
        assert worker.poll() is None, log.read_text()
        status = json.loads(finished(command(home, "status", job, "--json")))
    finally:
        worker.terminate()
    finished(worker)
    assert status["state"] == "completed"
    assert (status["total"], status["succeeded"]) == (ROWS, ROWS)
    _, memory = measured(home, "export", job, "-o", results)
    assert memory < MOST_MEMORY
    with results.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["row"]) for row in rows] == list(range(ROWS))
    assert [row["id"] for row in rows] == [f"r{row}" for row in range(ROWS)]
    assert all(row["prompt"] == f"Tell me about place {row['row']}." for row in rows)
    assert {row["attempts"] for row in rows} == {"1"}
    assert {row["finish_reason"] for row in rows} <= {"eos", "length"}
