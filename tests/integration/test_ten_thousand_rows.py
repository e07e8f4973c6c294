"""Ten thousand short rows from `submit` through a worker to `export`: none lost, none doubled, little memory."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")
ROWS = 10_000
MOST_MEMORY = 200 * 1024  # kB


class Command:
    """One `endmark` process, with the peak memory of that process alone."""

    def __init__(self, home, *arguments):
        self.process = subprocess.Popen(
            [ENDMARK, *map(str, arguments)],
            env={**os.environ, "ENDMARK_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self):
        out, err = self.process.stdout.read(), self.process.stderr.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.process.stdout.close()
        self.process.stderr.close()
        assert self.process.returncode == 0, err
        return out, usage.ru_maxrss


def test_no_row_is_lost_or_doubled(tmp_path):
    dataset, results = tmp_path / "rows.csv", tmp_path / "results.csv"
    with dataset.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "prompt"])
        writer.writerows([f"r{row}", f"Tell me about place {row}."] for row in range(ROWS))
    home = tmp_path / "home"
    out, memory = Command(home, "submit", dataset, "--max-new-tokens", "4").finish()
    assert memory < MOST_MEMORY
    job = out.strip()
    worker = Command(home, "worker", "--gpus", "cpu")
    try:
        deadline = time.monotonic() + 500
        while True:
            status = json.loads(Command(home, "status", job, "--json").finish()[0])
            if status["state"] not in ("queued", "running"):
                break
            assert worker.process.poll() is None, worker.process.stderr.read()
            assert time.monotonic() < deadline, status
            time.sleep(2)
    finally:
        worker.process.terminate()
    worker.finish()
    assert status["state"] == "completed"
    assert (status["total"], status["succeeded"]) == (ROWS, ROWS)
    _, memory = Command(home, "export", job, "-o", results).finish()
    assert memory < MOST_MEMORY
    with results.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["row"]) for row in rows] == list(range(ROWS))
    assert [row["id"] for row in rows] == [f"r{row}" for row in range(ROWS)]
    assert all(row["prompt"] == f"Tell me about place {row['row']}." for row in rows)
    assert {row["attempts"] for row in rows} == {"1"}
    assert {row["finish_reason"] for row in rows} <= {"eos", "length"}
