"""A fleet that is upgraded one host at a time: the ledger first, then each host, with jobs of both all along.

`former/endmark-0.1.zip` is the package of the version before, without the bundled model: its commands and its
worker run here as they did then.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from endmark.db.connection import open_store, upgrade
from endmark.db.jobs import load_job, resume_job
from endmark.db.migrations import HEAD
from endmark.db.progress import job_status
from endmark.db.retry import retry_rows
from endmark.db.workers import list_workers
from endmark.jobs.errors import SchemaError
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import FinishReason, JobState
from tests.integration.service_fixtures import results, state_of, submit, wait_until
from tests.integration.store.ledger import execute
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration
ZIP = Path(__file__).parent / "former" / "endmark-0.1.zip"
ROWS = 6


@pytest.fixture
def former(tmp_path):
    """Start a module of the former version on the home of the test."""
    with zipfile.ZipFile(ZIP) as package:
        package.extractall(tmp_path / "former")
    started = []

    def start(module, *words):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *words],
            env={
                **os.environ,
                "PYTHONPATH": str(tmp_path / "former"),
                "ENDMARK_HOME": str(tmp_path / "home"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def finished(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def test_a_ledger_is_upgraded_first_and_its_workers_one_at_a_time(tmp_path, former):
    settings = Settings(tmp_path / "home", f"sqlite:///{tmp_path / 'home' / 'endmark.db'}", None)
    model = str(save_tiny_model(tmp_path / "model"))
    (tmp_path / "prompts.csv").write_text("prompt\n" + "place\n" * ROWS)
    words = (str(tmp_path / "prompts.csv"), "--model", model, "--max-new-tokens", "5")
    before, paused = (finished(former("endmark.cli.main", "submit", *words))[0].strip() for _ in range(2))
    finished(former("endmark.cli.main", "pause", paused))
    with pytest.raises(SchemaError, match=f"this program writes {HEAD}"):
        open_store(settings.database_url)
    old_worker = former("endmark.worker.supervisor", "--model", model, "--gpus", "cpu")
    upgrade_when_it_works(settings, before)

    with open_store(settings.database_url) as store:
        # Of the new commands' jobs the old worker runs those that ask for nothing new, and refuses others by name.
        wait_until(lambda: state_of(store, before) is JobState.COMPLETED)
        plain = submit(store, ["place"] * ROWS, model=model, max_new_tokens=5)
        wait_until(lambda: state_of(store, plain) is JobState.COMPLETED)
        assert len(results(store, plain)) == ROWS
        newer = submit(store, ["place"], model=model, max_new_tokens=5, thinking_marks="none")
        wait_until(lambda: state_of(store, newer) is JobState.FAILED)
        assert "does not know `thinking_marks`" in job_status(store, newer).error

        # The old commands say what is to be done.
        _, err = finished(former("endmark.cli.main", "status"), code=1)
        assert f"schema is version {HEAD}" in err
        assert "upgrade Endmark" in err

        # The host is upgraded: a new worker runs what an old command stored, and what the old worker refused.
        old_worker.terminate()
        old_worker.communicate(timeout=60)
        wait_until(lambda: not list_workers(store))
        resume_job(store, paused)
        retry_rows(store, newer, spec=load_job(store, newer).spec, reasons=[FinishReason.ERROR])
        worker = start_worker(settings, WorkerOptions(model, gpus="cpu"))
        try:
            for job, rows in ((paused, ROWS), (newer, 1)):
                wait_until(lambda job=job: state_of(store, job) is JobState.COMPLETED)
                assert len(results(store, job)) == rows
        finally:
            worker.stop()


def upgrade_when_it_works(settings, job):
    """Upgrade the ledger once the old worker, still running, has finished its first job."""

    def done():
        with former_store(settings) as found:
            return found.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()[0] == "completed"

    wait_until(done, 120)
    upgrade(settings.database_url)


def former_store(settings):
    """The file itself: this version does not open a ledger of the former."""
    import sqlite3
    from contextlib import closing

    return closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///")))


def test_a_newer_ledger_says_which_programs_can_use_it(store, database_url):
    """A later version has added what this one does not know; a host that is not upgraded yet works on."""
    execute(store, "UPDATE alembic_version SET version_num = '9998'")
    execute(store, "ALTER TABLE attempts ADD COLUMN mood INTEGER NOT NULL DEFAULT 3")
    with open_store(database_url) as newer:
        job = submit(newer, ["x"])
        assert load_job(newer, job).total == 1
    for oldest in ("9997", None):
        execute(store, "DELETE FROM compatibility")
        if oldest is not None:
            execute(store, "INSERT INTO compatibility (oldest) VALUES (:oldest)", oldest=oldest)
        with pytest.raises(SchemaError, match="version 9998") as caught:
            open_store(database_url)
        assert caught.value.hint == "upgrade Endmark"


def test_a_spec_names_nothing_that_is_as_it_always_was(store):
    """It held every field, and a worker of the version before refused all jobs of newer commands."""
    job = submit(store, ["x"], sampling=Sampling(temperature=0.5))
    stored = json.loads(load_job(store, job).spec.to_json())
    assert set(stored) - {"version"} == FORMER_FIELDS
    assert stored["sampling"] == {"temperature": 0.5}


FORMER_FIELDS = {
    "model",
    "adapter",
    "strategies",
    "max_new_tokens",
    "sampling",
    "system",
    "prompt_column",
    "template",
    "raw",
    "trace",
    "row_options",
    "allow_control_tokens",
}
