"""A worker that drains takes nothing more, fine-tunings included, however soon one comes due."""

import subprocess
import sys
from pathlib import Path

import pytest

from endmark.db.connection import open_store
from endmark.db.finetunings import add_finetuning, due_finetuning
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.broker.address import client, parse_address
from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import shards_of, state_of, submit, wait_until

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]

# The real service and Celery around a scripted engine that waits for a file; it looks for fine-tunings all along.
WORKER = """
import sys, time
from pathlib import Path
from endmark.db.connection import open_store
from endmark.jobs.launch.workers import Launch, WorkerOptions
from endmark.jobs.progress import WorkerReport
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.service import app
from endmark.worker.service.handover import HANDOVER
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.service import Service
from tests.integration.service_fixtures import QUICKLY, VOCABULARY, answer_script
from tests.unit.byte_tokenizer import ByteTokenizer

url, broker, gate = sys.argv[1:]
app._LOOK = 0.02
log_to_stderr("host:1")

def script(tokens):
    while not Path(gate).exists():
        time.sleep(0.01)
    time.sleep(0.02)  # so that the rows take longer than some looks
    return answer_script(tokens)

with open_store(url) as store:
    options = WorkerOptions("m", grace=60.0)
    HANDOVER.offer(store, options)
    runner = ScriptedRunner(script, max_rows=8, num_pages=512, context=200, prefill_tokens=400)
    report = WorkerReport("host:1", "cpu", "m", None, "packed", 0.0)
    service = Service(
        Engine(runner, VOCABULARY, {0}), Prompter(ByteTokenizer()), store, report,
        rows_ahead=8, fatal=print, pace=QUICKLY,
    )
    app.consume(service, broker, Launch(options), app.Orphaned())
    print("finetuning:", HANDOVER.finetuning, flush=True)
"""


def test_a_worker_that_drains_takes_no_fine_tuning(tmp_path):
    """One that came due sent a second signal, which ended the grace, and kept a process that was told to end."""
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    gate, log = tmp_path / "gate", tmp_path / "log"
    with open_store(settings.database_url) as store, ensure_broker(settings) as broker, log.open("wb") as said:
        job = submit(store, ["place"] * 8)
        words = [sys.executable, "-c", WORKER, settings.database_url, broker.url, str(gate)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            wait_until(lambda: [state for state, *_ in shards_of(store, job)] == ["running"])
            asked = client(parse_address(broker.url))
            wait_until(
                lambda: any(item["cmd"] == "brpop" for item in asked.client_list())
            )  # it hears signals by now
            asked.close()
            process.terminate()
            wait_until(lambda: b"draining: rows that run have 60 s" in log.read_bytes())
            finetuning = add_finetuning(store, FinetuneSpec(dataset="/d", output="/o", model="m"))
            gate.touch()
            out = process.stdout.read()
        finally:
            process.kill()
            process.communicate()
        assert out == "finetuning: None\n"
        assert state_of(store, job) is JobState.COMPLETED
        assert due_finetuning(store, "m") == finetuning


def test_a_signal_before_the_message_loop_drains_too(tmp_path):
    """It killed the process where it stood, with the rows it had just claimed."""
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    (tmp_path / "gate").touch()
    begun = "app.consume(service"
    early = (
        "start = service.start\n    service.start = lambda: (start(), os.kill(os.getpid(), signal.SIGTERM))\n    "
    )
    with open_store(settings.database_url) as store, ensure_broker(settings) as broker:
        submit(store, ["place"] * 8)
        words = ["import os, signal\n" + WORKER.replace(begun, early + begun), settings.database_url, broker.url]
        ended = subprocess.run(
            [sys.executable, "-c", *words, str(tmp_path / "gate")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert "drained" in ended.stderr
        assert [state for state, *_ in shards_of(store, 1)] != ["running"]
