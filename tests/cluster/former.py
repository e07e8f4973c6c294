"""The version before: a ledger with a job as it makes them, and a worker of it, as `worker.py` is one of this.

Run as `python -P -m tests.cluster.former submit URL ROWS` or `… work JSON`, with its package first on the path.
Both versions have what is named here.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from endmark.db import connection
from endmark.db.connection import open_store, upgrade
from endmark.db.jobs import add_rows, begin_job, finish_submission
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.launch.lives import LifeFile
from endmark.jobs.launch.workers import WorkerOptions
from endmark.jobs.progress import WorkerReport
from endmark.jobs.settings import Settings
from endmark.jobs.spec import GenerationSpec
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.service.app import Orphaned, _patiently, consume, notify, rows_ahead
from endmark.worker.service.ending import break_off
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.service import Pace, Service
from tests.cluster.recording import Recorder
from tests.cluster.scripted import ROWS, scripted_engine
from tests.unit.byte_tokenizer import ByteTokenizer


def submit(url, rows):
    """Make a ledger and store a job; print its id."""
    upgrade(url)
    with open_store(url) as store:
        job = begin_job(store, name="former", spec=GenerationSpec(model="m"))
        add_rows(store, job, 0, [json.dumps([f"place {row}"]) for row in range(rows)])
        finish_submission(store, job, columns=("prompt",), total=rows, shard_size=16)
    sys.stdout.write(job)


def work(told):
    """Serve until drained; return the exit code."""
    name = f"{told['host']}:{os.getpid()}"
    log_to_stderr(name)
    recorder = Recorder(Path(told["history"]) / f"{told['host']}-{os.getpid()}.jsonl", told["host"])
    recorder.install()
    connection._FROZEN_AFTER = told["frozen_after"]
    settings = Settings.load()
    options = WorkerOptions(told["model"], lease=told["lease"], grace=told["grace"])

    with (
        _patiently(lambda: ensure_broker(settings)) as broker,
        _patiently(lambda: open_store(settings.database_url)) as store,
    ):
        life = LifeFile(None)
        service = Service(
            scripted_engine(told["step"]),
            Prompter(ByteTokenizer()),
            store,
            WorkerReport(name, "cpu", told["model"], None, "packed", 0.0),
            rows_at_once=ROWS,
            rows_ahead=rows_ahead(ROWS, "cpu"),
            notify=lambda keys: notify(broker.url, options, keys),
            fatal=lambda reason, stalled: break_off(life, reason, stalled=stalled),
            pace=replace(Pace.of(told["lease"], 60.0), look=1.0),
        )
        recorder.note("started", phase="done")
        return consume(service, broker.url, SimpleNamespace(options=options), Orphaned())


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "submit":
        submit(words[0], int(words[1]))
    else:
        os._exit(work(json.loads(words[0])))
