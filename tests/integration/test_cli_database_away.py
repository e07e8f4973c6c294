"""Commands that wait for a job while their database is restarted."""

import subprocess
import sys
from pathlib import Path

import pytest

from endmark.db.connection import open_store
from endmark.db.jobs import cancel_job
from endmark.jobs.errors import JobStateError, StoreError
from tests.integration.service_fixtures import submit, wait_until

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")


def cancelled(store, job):
    """Cancel a job; False while the server does not take connections yet."""
    try:
        cancel_job(store, job)
    except JobStateError:
        return True
    except StoreError:
        return False
    return True


def test_a_watch_goes_on_when_its_database_is_back(postgres, postgres_template, tmp_path, monkeypatch):
    url = postgres.create(postgres_template)
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path))
    monkeypatch.setenv("ENDMARK_DATABASE_URL", url)
    said = tmp_path / "said"
    with open_store(url) as store, said.open("w") as log:
        job = submit(store, ["x"])
        watch = subprocess.Popen(
            [ENDMARK, "status", job, "--watch"], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            wait_until(lambda: f"job {job} waiting for a worker" in said.read_text())
            postgres.stop("immediate")
            wait_until(lambda: "waiting for it: check that the server runs" in said.read_text())
            postgres.start()
            wait_until(lambda: cancelled(store, job))
            out, _ = watch.communicate(timeout=60)
        finally:
            postgres.start()
            watch.kill()
    assert watch.returncode == 0
    assert "cancelled" in out
    assert "error" not in said.read_text()
