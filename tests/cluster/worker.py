"""A worker process: the real service, ledger and Celery wake around a scripted engine, so it starts without torch.

Run as `python -m tests.cluster.worker`, with its settings in the environment and the rest as JSON on the command
line. Times that a product's worker counts in tens of seconds are scaled down, all by the same share as its lease.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from endmark.db import connection
from endmark.db.connection import open_store
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.launch.lives import LifeFile
from endmark.jobs.launch.workers import Launch, WorkerOptions
from endmark.jobs.progress import WorkerReport
from endmark.jobs.settings import Settings
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.service.app import Orphaned, _patiently, consume, rows_ahead
from endmark.worker.service.ending import break_off
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.service import Pace, Service
from tests.cluster import bugs
from tests.cluster.recording import Recorder
from tests.cluster.scripted import ROWS, scripted_engine
from tests.unit.byte_tokenizer import ByteTokenizer

_LOOK = 1.0  # seconds between looks into the ledger; a product's worker has 5


def main(told):
    """Serve until drained; return the exit code."""
    if told["bug"] is not None:
        getattr(bugs, told["bug"])().__enter__()  # for good
    name = f"{told['host']}:{os.getpid()}"
    log_to_stderr(name)
    recorder = Recorder(Path(told["history"]) / f"{told['host']}-{os.getpid()}.jsonl", told["host"])
    recorder.install()
    connection._FROZEN_AFTER = told["frozen_after"]
    settings = Settings.load()

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
            rows_ahead=rows_ahead(ROWS, "cpu"),
            fatal=lambda reason, stalled: break_off(life, reason, stalled=stalled),
            pace=replace(Pace.of(told["lease"], 60.0), look=_LOOK),
        )
        recorder.note("started", phase="done")
        launch = Launch(WorkerOptions(told["model"], lease=told["lease"], grace=told["grace"]))
        return consume(service, broker.url, launch, Orphaned())


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    os._exit(code)
