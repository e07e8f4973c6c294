"""A service over a scripted engine and a real ledger."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

from sqlalchemy import text

from endmark.db.connection import open_store
from endmark.db.jobs import add_rows, begin_job, finish_submission, load_job
from endmark.db.progress import all_statuses
from endmark.jobs.progress import WorkerReport
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.service.app import rows_ahead
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.service import Pace, Service
from tests.unit.byte_tokenizer import VOCABULARY_SIZE, ByteTokenizer

VOCABULARY = Vocabulary([b"", *(bytes((byte,)) for byte in range(256)), b""][:VOCABULARY_SIZE])
QUICKLY = Pace(heartbeat=0.05, report=0.05, reap=0.05, look=0.05, twins=0.05, flush=5.0)
NEVER = replace(QUICKLY, look=3600.0)  # but for the first look into the ledger
ANSWER = b" is a fine place."


def answer_script(tokens):
    """Answers a prompt that ends in `[assistant]` with ANSWER, then EOS; `loop` in the prompt never ends."""
    data = bytes(token - 1 for token in tokens if 0 < token <= 256)
    answer = data.rpartition(b"[assistant]")[2]
    if b"loop" in data:
        return 1 + ord("x")
    return 1 + ANSWER[len(answer)] if len(answer) < len(ANSWER) else 0


def gated():
    """A script that waits for a gate before each token."""
    gate = threading.Event()

    def script(tokens):
        gate.wait()
        return answer_script(tokens)

    return gate, script


def submit(
    store, prompts, *, shard_size=8, model="m", adapter=None, strategies=(), priority=0, name="test", **options
):
    """Store a job as `endmark submit` does; return its id."""
    spec = GenerationSpec(model=model, adapter=adapter, strategies=build_strategies(strategies), **options)
    job = begin_job(store, name=name, spec=spec, priority=priority)
    add_rows(store, job, 0, [json.dumps([prompt]) for prompt in prompts])
    finish_submission(store, job, columns=("prompt",), total=len(prompts), shard_size=shard_size)
    return job


def results(store, job):
    """The final attempts of a job as (row, attempt, finish_reason, text), by row."""
    with store.reader.connect() as connection:
        found = connection.execute(
            text(
                "SELECT row, attempt, finish_reason, text FROM attempts WHERE job_id = :job AND final ORDER BY row"
            ),
            {"job": job},
        )
        return [tuple(item) for item in found]


def shards_of(store, job):
    """The job's shards as (state, fence, attempts)."""
    with store.reader.connect() as connection:
        found = connection.execute(
            text("SELECT state, fence, attempts FROM shards WHERE job_id = :job ORDER BY shard"), {"job": job}
        )
        return [tuple(item) for item in found]


def state_of(store, job):
    """The job's state."""
    return load_job(store, job).state


class Watched(Service):
    """A service that says when it has looked into the ledger."""

    def __init__(self, *arguments, **options):
        self.looked = threading.Event()
        super().__init__(*arguments, **options)

    def _look(self):
        super()._look()
        self.looked.set()


class Worker:
    """A service and the tasks that would run it, as threads."""

    def __init__(self, store, *, script=answer_script, name="host:1", pace=QUICKLY, device="cpu", **options):
        options = {"max_rows": 8, "num_pages": 512, "context": 200, "prefill_tokens": 400, **options}
        engine = Engine(ScriptedRunner(script, **options), VOCABULARY, {0})
        self.broken = threading.Event()
        self.reason = None  # why it would have ended its process
        self.service = Watched(
            engine,
            Prompter(ByteTokenizer()),
            store,
            WorkerReport(name, device, "m", None, "packed", 0.0),
            rows_ahead=rows_ahead(options["max_rows"], device),
            fatal=self._end,
            pace=pace,
        )
        self.service.start()

    def _end(self, reason, stalled):
        self.reason = reason
        self.broken.set()

    def drain(self, grace=10.0):
        self.service.drain(grace)


def wait_until(condition, seconds=60.0):
    """Wait for a condition that must come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def jobs_until(database, condition, seconds=120.0):
    """Wait until the jobs of a ledger are as wanted, and return them, the newest first.

    Asking `endmark status` again and again would take the processor from the worker that is waited for.
    """
    deadline = time.monotonic() + seconds
    while not database.exists():
        assert time.monotonic() < deadline, "there is no ledger"
        time.sleep(0.05)
    with open_store(f"sqlite:///{database}") as store:
        while not ((found := all_statuses(store)) and condition(found)):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
    return found


def gone(pid):
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # before the file is opened, and while it is read
        return True
