"""A loss of power: what SQLite's ledger holds then, where the disk forgets all that it was not told to keep."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from endmark.db.connection import open_store
from endmark.db.jobs import load_job
from endmark.jobs.vocabulary import JobState
from tests.cluster.host import COMPILER
from tests.integration.store.ledger import rows_of

pytestmark = pytest.mark.integration

ROWS = 3000
_STORED = """
import os, sys
from endmark.db.connection import open_store
from tests.integration.service_fixtures import submit
sys.stdout.write(submit(open_store(sys.argv[1]), ["x"] * int(sys.argv[2])))
sys.stdout.flush()
os._exit(0)  # as a process ends whose machine stops: nothing is closed
"""


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler for the library that notes what is flushed")
def test_a_job_whose_id_was_printed_outlives_a_loss_of_power(tmp_path):
    """It was left to the kernel when the job is written: one submitted half a minute before was gone."""
    for name in ("disk", "kept", "after"):
        (tmp_path / name).mkdir()
    source = Path(__file__).parents[2] / "cluster" / "disk.c"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", tmp_path / "disk.so", source], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(tmp_path / "disk.so"),
        "ENDMARK_DISK": str(tmp_path / "disk"),
        "ENDMARK_KEPT": str(tmp_path / "kept"),
    }
    words = [sys.executable, "-c", _STORED, f"sqlite:///{tmp_path / 'disk' / 'ledger.db'}", str(ROWS)]
    job = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(tmp_path / "kept" / name, tmp_path / "after")
    with open_store(f"sqlite:///{tmp_path / 'after' / 'ledger.db'}") as store:
        assert load_job(store, job).state is JobState.QUEUED
        assert rows_of(store, "SELECT count(*) FROM rows WHERE job_id = :job", job=job) == [(ROWS,)]
