"""What a worker tells Prometheus, by its own parser, and Flower; and what `--metrics-port` says when it cannot."""

import socket
import threading
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from endmark.db.connection import open_store
from endmark.db.progress import job_status
from endmark.db.shards import claim
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.errors import EndmarkError
from endmark.jobs.launch.workers import Launch, WorkerOptions, start_worker
from endmark.jobs.queue import make_app, wake
from endmark.jobs.settings import Settings
from endmark.worker.service.meter import Meter
from endmark.worker.service.metrics import WorkerMetrics, serve_metrics
from tests.integration.ports import free_port
from tests.integration.service_fixtures import submit, wait_until
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "home", f"sqlite:///{tmp_path / 'home' / 'endmark.db'}", None)


class Watcher(threading.Thread):
    """Collects the events that Flower lives on."""

    def __init__(self, broker_url):
        super().__init__(name="watcher")
        self.seen = []
        self._app = make_app(broker_url, "endmark")
        self._connection = self._app.connection_for_read()
        self._receiver = self._app.events.Receiver(self._connection, handlers={"*": self.seen.append})

    def run(self):
        self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def end(self):
        self._receiver.should_stop = True
        self.join(60)
        self._connection.close()
        self._app.close()


def read(port):
    """Return the samples by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation and family.type != "unknown" for family in families)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for item in families
        for sample in item.samples
    }


def test_a_worker_tells_what_it_has_done(settings, tmp_path):
    model = str(save_tiny_model(tmp_path / "tiny"))
    port = free_port()
    with open_store(settings.database_url) as store:
        job = submit(
            store, [f"Question {row}?" for row in range(20)], model=model, shard_size=10, max_new_tokens=12
        )
        dead = claim(store, worker="dead", model=model, adapter=None, lease_seconds=0.01)
        assert dead.first_row == 0
        options = WorkerOptions(model=model, gpus="cpu", metrics_port=port, lease=2.0)
        broker = ensure_broker(settings)
        watcher = Watcher(broker.url)
        watcher.start()
        worker = start_worker(settings, options)
        try:
            wait_until(lambda: job_status(store, job).state.is_final, 120)
            status = job_status(store, job)
            found = read(port)
            wake(broker.url, model, None)
            wanted = {"task-succeeded", "worker-heartbeat"}
            wait_until(lambda: wanted <= {event["type"] for event in watcher.seen})
        finally:
            worker.stop()
            watcher.end()
            broker.release()
    finished = {key[1:]: value for key, value in found.items() if key[0] == "endmark_rows_finished_total"}
    assert sum(finished.values()) == 20
    assert finished.get(("", "length"), 0) == status.finish_reasons.get("length", 0)
    assert sum(value for key, value in finished.items() if "eos" in key) == status.ended_with_eos
    endings = {key[1]: value for key, value in found.items() if key[0] == "endmark_answers_total"}
    assert sum(endings.values()) == 20
    assert found["endmark_parts_total", "", "answer"] == 20
    assert found["endmark_tokens_total", "reasoning"] == 0
    assert found["endmark_tokens_total", "completion"] == status.completion_tokens
    assert found["endmark_tokens_total", "prompt"] == status.prompt_tokens
    assert found["endmark_tokens_sampled_total",] >= status.completion_tokens
    assert found["endmark_step_seconds_count",] == found["endmark_step_seconds_bucket", "+Inf"] > 0
    assert found["endmark_step_seconds_sum",] > 0
    assert found["endmark_reaped_shards_total",] == 1
    assert found["endmark_running_rows",] == found["endmark_waiting_rows",] == 0
    assert found["endmark_kv_pages",] > found["endmark_kv_pages_used",] == 0
    assert found["endmark_lease_age_seconds",] < 5
    assert ("endmark_rows", "failed") in found
    names = {event["hostname"] for event in watcher.seen}
    assert len(names) == 1
    assert names.pop().startswith("worker-")
    assert next(value for key, value in found.items() if key[0] == "endmark_worker_info" and "cpu" in key) == 1


def test_a_port_that_is_taken_is_said(settings, tmp_path):
    model = str(save_tiny_model(tmp_path / "tiny"))
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker = start_worker(settings, WorkerOptions(model=model, gpus="cpu", metrics_port=port))
        deadline = time.monotonic() + 120
        while worker.alive and time.monotonic() < deadline:
            time.sleep(0.1)
        try:
            message, hint = worker.failure()
            assert f"cannot serve metrics on 127.0.0.1, port {port}: Address already in use" in message
            assert "--metrics-port" in hint
        finally:
            worker.stop()


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 70])
def test_an_address_that_is_not_this_machines_is_said(host):
    metrics = WorkerMetrics(None, Meter(), lambda: 0.0, None, None)
    with pytest.raises(EndmarkError, match=f"cannot serve metrics on {host}, port 9100: ") as caught:
        serve_metrics(metrics, host, 9100)
    assert "--metrics-host" in caught.value.hint


def test_nobody_from_elsewhere_reaches_the_figures():
    """The port was open on all interfaces, whoever asked."""
    for options, host in (({}, "127.0.0.1"), ({"metrics_host": "::1"}, "::1")):
        launch = Launch(WorkerOptions(model="m", metrics_port=9100, **options))
        assert Launch.from_json(launch.command()[-1]).options.metrics_host == host
