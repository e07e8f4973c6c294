"""The example of a strategy in a package of its own: built, installed, and used from the client to the engine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import jobs_until

pytestmark = pytest.mark.integration
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "strategy_package"


def endmark(*words, environment):
    """Run the command line; return the finished process."""
    command = [sys.executable, "-m", "endmark.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_it_is_listed_stored_and_applied_and_a_worker_without_it_says_so(tmp_path):
    site = tmp_path / "site"
    build = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--target", str(site), str(EXAMPLE)], check=True, cwd=tmp_path)
    here = {"ENDMARK_HOME": str(tmp_path / "home"), "PYTHONPATH": str(site)}

    listed = endmark("strategies", environment=here).stdout
    assert "last-call  (acts on: scores)" in listed
    assert "tokens=16" in listed

    asked = [
        "ask",
        "What can I do in Paris?",
        "--max-new-tokens",
        "24",
        "--strategy",
        "last-call:tokens=12",
        "--json",
    ]
    done = endmark(*asked, environment=here)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["finish_reason"], answer["eos_source"]) == ("eos", "boosted")

    # A host where the package is missing refuses the name; a worker there fails a job that was stored elsewhere.
    there = {**here, "PYTHONPATH": ""}
    assert "unknown strategy `last-call`" in endmark(*asked, environment=there).stderr
    stored = endmark("submit", str(prompts(tmp_path)), "--strategy", "last-call", environment=here).stdout.strip()
    worker = subprocess.Popen(
        [sys.executable, "-m", "endmark.cli.main", "worker", "--gpus", "cpu"],
        env={**os.environ, **there},
        stderr=subprocess.DEVNULL,
    )
    try:
        jobs_until(tmp_path / "home" / "endmark.db", lambda jobs: jobs[0].state is JobState.FAILED)
    finally:
        worker.send_signal(signal.SIGINT)
        worker.wait(90)
    state = json.loads(endmark("status", stored, "--json", environment=here).stdout)
    assert "unknown strategy `last-call`" in state["error"]


def prompts(folder):
    """Return a dataset of one prompt."""
    path = folder / "prompts.csv"
    path.write_text("prompt\nWhat can I do in Paris?\n")
    return path
