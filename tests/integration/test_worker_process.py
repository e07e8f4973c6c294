"""Real worker processes on a tiny model: killed, orphaned, flooded with nonsense, left without their broker."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from endmark.cli import crew
from endmark.cli.waiting import wait_for
from endmark.db.connection import open_store
from endmark.db.jobs import load_job
from endmark.db.workers import list_workers
from endmark.jobs.broker.access import ensure_broker, find_broker
from endmark.jobs.broker.address import client, parse_address
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.queue import FORMER_TASKS, WAKE_TASK, make_app, queue_name, wake
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState
from endmark.worker.service.service import Pace
from tests.integration.service_fixtures import gone, results, shards_of, submit, wait_until
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
START = 120.0  # seconds that a worker may take to load on a busy machine


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


class House:
    """One home with its ledger, its broker and one worker."""

    def __init__(self, home, model):
        self.model = model
        self.settings = Settings(home, f"sqlite:///{home / 'ledger.db'}", None)
        self.store = open_store(self.settings.database_url)
        self.broker = ensure_broker(self.settings)
        self.worker = start_worker(self.settings, WorkerOptions(model, gpus="cpu"))

    def submit(self, count, **options):
        """Store a job and wake the worker."""
        job = submit(self.store, [f"place {row}" for row in range(count)], model=self.model, **options)
        wake(self.broker.url, self.model, None)
        return job

    def wait(self, job, seconds=60.0):
        """Wait until a job is done; every row of it must be there once."""
        wait_until(lambda: load_job(self.store, job).state.is_final or not self.worker.alive, seconds)
        assert self.worker.alive, self.worker.tail()
        assert load_job(self.store, job).state is JobState.COMPLETED
        assert [row for row, *_ in results(self.store, job)] == list(range(load_job(self.store, job).total))

    def child(self):
        """The process id of the worker that reports itself."""
        wait_until(lambda: list_workers(self.store), START)
        return int(list_workers(self.store)[-1].worker.rpartition(":")[2])

    def close(self):
        """End it all."""
        self.worker.stop()
        self.broker.release()
        self.store.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory, model):
    opened = House(tmp_path_factory.mktemp("house"), model)
    opened.wait(opened.submit(4, max_new_tokens=3), START)
    yield opened
    opened.close()
    assert find_broker(opened.settings) is None


def test_a_job_is_done_by_a_real_worker(house):
    job = house.submit(100, max_new_tokens=20)
    house.wait(job)
    assert {reason for _, _, reason, _ in results(house.store, job)} <= {"eos", "length"}
    (worker,) = list_workers(house.store)
    assert (worker.model, worker.device) == (house.model, "cpu")


def test_nonsense_on_the_queue_is_refused_and_never_executed(house, tmp_path):
    name = queue_name(house.model, None)
    address = parse_address(house.broker.url)
    for item in ("no json", "[]", "{}", '"text"', '{"body": 1, "properties": null}', "x" * 3_000_000):
        client(address).lpush(f"endmark:{name}", item)
    app = make_app(house.broker.url, name)
    marker = tmp_path / "executed"
    app.send_task("os.system", args=[f"touch {marker}"])
    app.send_task("celery.map", args=[WAKE_TASK, [[1]]])
    app.send_task(WAKE_TASK, args=["\x1b[31mred", "j" * 2_000_000], kwargs={"\x1b": 0})
    follow = app.signature("os.system", args=[f"touch {marker}"])
    app.send_task(WAKE_TASK, link=follow)
    app.send_task(WAKE_TASK, serializer="pickle")
    house.wait(house.submit(3, max_new_tokens=3))
    wait_until(lambda: client(address).llen(f"endmark:{name}") == 0)
    log = house.worker.log_path.read_text()
    assert log.count("refused an item on the queue that is no message") >= 6
    for said in ("os.system", "celery.map", "other tasks to follow", "pickle"):
        assert said in log
    assert "\x1b" not in log
    assert max(map(len, log.splitlines())) < 5000
    assert not marker.exists()
    assert "starting it again" not in log


@pytest.mark.parametrize("task", [WAKE_TASK, *FORMER_TASKS])
def test_a_message_wakes_whoever_has_sent_it(house, task):
    """Commands of version 0.1 send one a shard, and one for a fine-tuning.

    One job alone had been asked, which a worker that hears nothing finds as soon by its own look.
    """
    house.child()
    app = make_app(house.broker.url, queue_name(house.model, None))
    began = time.monotonic()
    for _ in range(3):
        job = submit(house.store, ["place"], model=house.model, max_new_tokens=3)
        app.send_task(task, args=["job", 1], kwargs={"version": 1})
        house.wait(job)
    assert time.monotonic() - began < 2 * Pace().look  # by its own looks the third is found two of them later


def test_losing_every_message_loses_nothing(house):
    """The messages are on the queue, and no worker has taken one, when all of them are lost."""
    address, child = parse_address(house.broker.url), house.child()
    os.kill(child, signal.SIGSTOP)
    try:
        client(address).client_kill_filter(_type="normal")  # or one that waits would be handed the first
        job = house.submit(20, max_new_tokens=5)
        assert client(address).llen(f"endmark:{queue_name(house.model, None)}") == 1
        assert client(address).flushall()
    finally:
        os.kill(child, signal.SIGCONT)
    house.wait(job)


def test_a_killed_broker_is_started_again(house):
    old = house.broker.server.pid()
    job = house.submit(300, max_new_tokens=30)
    os.kill(old, signal.SIGKILL)
    house.wait(job)
    wait_until(lambda: house.broker.server.pid() not in (None, old))
    house.wait(house.submit(3, max_new_tokens=3))


def test_a_killed_worker_is_started_again_and_its_rows_are_done_once(house):
    job = house.submit(400, max_new_tokens=60)
    wait_until(lambda: len(results(house.store, job)) > 20)
    killed = house.child()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: house.worker.deaths()[0] == 1)
    assert house.worker.deaths()[1] == "cpu: it was killed by SIGKILL"
    # Its leases, which would have held for another minute and more, are free; and it is shown as alive no longer.
    wait_until(lambda: str(killed) not in str(list_workers(house.store)))
    wait_until(lambda: held_by(house.store, killed) == 0)
    house.wait(job, START)
    assert "was killed by SIGKILL" in house.worker.log_path.read_text()


def held_by(store, pid):
    """How many shards are running under a process that has died."""
    with store.reader.connect() as connection:
        found = connection.execute(
            text("SELECT count(*) FROM shards WHERE state = 'running' AND worker LIKE :name"), {"name": f"%:{pid}"}
        )
        return found.scalar()


def test_a_drain_gives_the_rows_that_run_their_time(tmp_path, model):
    """Once messages only woke, Celery ended at once, and that counted as a second signal: rows were given back."""
    house = House(tmp_path, model)
    try:
        job = house.submit(3, max_new_tokens=400, shard_size=3)
        wait_until(lambda: [state for state, *_ in shards_of(house.store, job)] == ["running"], START)
        house.worker.process.terminate()
        house.worker.process.wait(60)
        assert load_job(house.store, job).state is JobState.COMPLETED
    finally:
        house.close()


def test_a_drained_worker_leaves_no_lease_and_no_process(tmp_path, model):
    house = House(tmp_path, model)
    child = house.child()
    job = house.submit(2000, max_new_tokens=200)
    wait_until(lambda: any(state == "running" for state, _, _ in shards_of(house.store, job)))
    began = time.monotonic()
    assert house.worker.stop(grace=60) == 0
    assert time.monotonic() - began < 45
    assert gone(child)
    assert {state for state, _, _ in shards_of(house.store, job)} <= {"done", "queued"}
    assert list_workers(house.store) == []
    house.close()
    assert find_broker(house.settings) is None


RUN = """
import sys, time
from pathlib import Path
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.settings import Settings
home = Path(sys.argv[1])
settings = Settings(home, f"sqlite:///{home / 'ledger.db'}", None)
broker = ensure_broker(settings)
worker = start_worker(settings, WorkerOptions(sys.argv[2], gpus="cpu"))
print(worker.process.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_run_leaves_no_orphan(tmp_path, model):
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    open_store(settings.database_url).close()
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path), model], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    supervisor = int(run.stdout.readline())
    with open_store(settings.database_url) as store:
        wait_until(lambda: list_workers(store), START)
        child = int(list_workers(store)[0].worker.rpartition(":")[2])
    assert find_broker(settings)
    run.kill()
    run.communicate()
    wait_until(lambda: gone(child) and gone(supervisor), 20)
    assert find_broker(settings) is None


def test_a_worker_that_cannot_load_its_model_says_why_and_is_not_tried_again(tmp_path):
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    open_store(settings.database_url).close()
    worker = start_worker(settings, WorkerOptions(str(tmp_path / "absent"), gpus="cpu"))
    wait_until(lambda: not worker.alive, START)
    assert worker.returncode == 1
    message, hint = worker.failure()
    assert str(tmp_path / "absent") in message
    assert "--model" in hint
    assert "starting it again" not in worker.tail()
    worker.stop()


def odd_model(folder, code):
    """A tiny model whose own code is `code`, the body of a subclass of its class."""
    save_tiny_model(folder)
    body = "\n".join(f"    {line}" for line in code.splitlines())
    (folder / "modeling_odd.py").write_text(
        f"import os\nfrom transformers import LlamaForCausalLM\nclass Odd(LlamaForCausalLM):\n{body}\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_odd.Odd"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_an_exception_that_nobody_has_foreseen_is_told_in_one_line(tmp_path, monkeypatch):
    """It was tried again for 150 seconds, and then `the log above says` stood where no log was."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = odd_model(tmp_path / "odd", "def forward(self, *given, **more):\n    raise IndexError('made up')")
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    worker = start_worker(settings, WorkerOptions(model, gpus="cpu", trust_remote_code=True))
    wait_until(lambda: not worker.alive, START)
    assert worker.returncode == 1
    message, hint = worker.failure()
    assert "\n" not in message
    assert model in message
    assert message.endswith("IndexError: made up")
    (trace,) = (tmp_path / "logs").glob("trace-*.log")
    assert str(trace) in hint
    assert "in forward" in trace.read_text()
    log = worker.log_path.read_text()
    assert log.count("IndexError") == 1
    assert "Traceback" not in log
    assert "starting it again" not in log
    worker.stop()


def test_a_run_says_that_its_worker_died_and_goes_on(tmp_path, monkeypatch, capfd):
    """`endmark run` said nothing while its worker died again and again."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "died"
    code = (
        f"def __init__(self, *given):\n    super().__init__(*given)\n    if not os.path.exists({str(marker)!r}):"
    )
    code += f"\n        open({str(marker)!r}, 'w').close()\n        os.kill(os.getpid(), 9)"
    model = odd_model(tmp_path / "odd", code)
    monkeypatch.setattr(
        crew, "WorkerOptions", lambda **named: WorkerOptions(gpus="cpu", trust_remote_code=True, **named)
    )
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    with open_store(settings.database_url) as store:
        job = submit(store, ["a", "b"], model=model, max_new_tokens=3)
        with crew.Crew(settings, store, load_job(store, job).spec) as hands:
            assert wait_for(store, job, hands, lambda *_: None).state is JobState.COMPLETED
    said = capfd.readouterr().err
    line = "the worker died, once so far, and is started again: cpu: it was killed by SIGKILL"
    line += " while it loaded the model"
    assert said.count(line) == 1
    assert "its log is `" in said.partition(line)[2]


def test_a_gpu_that_is_not_there_is_said_at_once(tmp_path):
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    worker = start_worker(settings, WorkerOptions("demo", gpus="97"))
    wait_until(lambda: not worker.alive)
    assert worker.returncode == 2
    assert "there is no GPU `97`" in worker.failure()[0]
    worker.stop()
