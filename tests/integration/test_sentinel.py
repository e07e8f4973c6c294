"""A broker behind three Sentinels: its master is killed; and what is said of one that cannot be had."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from endmark.db.connection import open_store
from endmark.db.jobs import load_job
from endmark.jobs.broker.access import broker_reachable, ensure_broker
from endmark.jobs.broker.address import client, parse_address, why_silent
from endmark.jobs.broker.server import find_binary
from endmark.jobs.errors import BrokerError
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.queue import queue_name, waiting_messages, wake
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState
from tests.cluster.servers import certificate
from tests.integration.ports import free_ports
from tests.integration.service_fixtures import results, submit, wait_until
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration

START = 120.0  # seconds that a worker may take to load on a busy machine
WATCHED = """
bind 127.0.0.1
port {port}
dir {folder}
requirepass watch
sentinel monitor main 127.0.0.1 {master} 2
sentinel auth-pass main d@ta
sentinel down-after-milliseconds main 1000
sentinel failover-timeout main 5000
"""


class Fleet:
    """The five servers on ports of this machine."""

    def __init__(self, folder):
        self.folder = folder
        self.master, self.replica, *self.sentinels = free_ports(5)
        self.processes = {}
        self._serve(self.master)
        self._serve(self.replica, "--replicaof", "127.0.0.1", str(self.master))
        wait_until(self._followed)  # Sentinels ask a master for its replicas at once, and then every 10 s
        for port in self.sentinels:
            path = folder / f"{port}.conf"
            path.write_text(WATCHED.format(port=port, folder=folder, master=self.master))
            self._start(port, str(path), "--sentinel")
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        self.place = f"{hosts}/main/1?sentinel_password=watch"
        self.url = f"sentinel://:d%40ta@{self.place}"
        wait_until(self._whole)

    def _serve(self, port, *words):
        secrets = ["--requirepass", "d@ta", "--masterauth", "d@ta"]
        secrets += ["--repl-diskless-sync-delay", "0"]  # or a replica waits 5 s for others to come
        self._start(port, "--port", str(port), "--bind", "127.0.0.1", "--save", "", *secrets, *words)

    def _start(self, port, *words):
        with (self.folder / f"{port}.log").open("wb") as log:
            self.processes[port] = subprocess.Popen(
                [find_binary(), *words], stdout=log, stderr=log, cwd=self.folder
            )

    def _followed(self):
        """Whether the replica has what the master has."""
        if not all(broker_reachable(self.direct(port)) for port in (self.master, self.replica)):
            return False
        return self.at(self.replica).info("replication")["master_link_status"] == "up"

    def _whole(self):
        """Whether all Sentinels know each other and the replica."""
        states = []
        for port in self.sentinels:
            url = f"redis://:watch@127.0.0.1:{port}"
            if not broker_reachable(url):
                return False
            states.append(client(parse_address(url)).sentinel_masters()["main"])
        return all(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 for state in states)

    def direct(self, port):
        """The URL of one of the two servers."""
        return f"redis://:d%40ta@127.0.0.1:{port}"

    def at(self, port):
        """A client of one of the two servers."""
        return client(parse_address(self.direct(port)))

    def kill(self, *ports):
        """SIGKILL servers."""
        for port in ports:
            process = self.processes.pop(port)
            process.kill()
            process.wait()


@pytest.fixture
def fleet(tmp_path):
    folder = tmp_path / "fleet"
    folder.mkdir()
    with contextlib.ExitStack() as ends:
        opened = Fleet.__new__(Fleet)
        ends.callback(lambda: opened.kill(*getattr(opened, "processes", ())))
        opened.__init__(folder)
        yield opened


def listeners(server):
    """How many clients wait for messages."""
    return sum(item["cmd"] in ("brpop", "bzpopmin") for item in server.client_list())


def test_a_master_dies_while_a_job_runs_and_nothing_is_lost(tmp_path, fleet):
    """A job submitted before, and one submitted after, whose message the worker takes from the new master."""
    model = str(save_tiny_model(tmp_path / "tiny"))
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", fleet.url)
    rows = 1000
    with ensure_broker(settings) as broker, open_store(settings.database_url) as store:
        assert (broker.url, broker.started_here) == (fleet.url, False)
        wake(fleet.url, model, None)
        assert waiting_messages(fleet.url, model, None) == 1
        assert list(fleet.at(fleet.master).info("keyspace")) == ["db1"]  # which the URL names
        worker = start_worker(settings, WorkerOptions(model, gpus="cpu"))
        try:
            wait_until(lambda: listeners(fleet.at(fleet.master)) or not worker.alive, START)
            wait_until(lambda: waiting_messages(fleet.url, model, None) == 0)
            before = submit(store, [f"place {row}" for row in range(rows)], model=model, max_new_tokens=40)
            wake(fleet.url, model, None)
            wait_until(lambda: results(store, before), START)
            fleet.kill(fleet.master)
            assert not load_job(store, before).state.is_final
            assert not broker_reachable(fleet.url)
            with pytest.raises(BrokerError, match=r"Connection refused|is down and no replica") as caught:
                wake(fleet.url, model, None)
            assert "nothing is lost" in caught.value.hint
            wait_until(lambda: broker_reachable(fleet.url))
            assert client(parse_address(fleet.url)).info("server")["tcp_port"] == fleet.replica
            wait_until(lambda: listeners(fleet.at(fleet.replica)))
            after = submit(store, ["one", "two"], model=model, max_new_tokens=3)
            client(parse_address(fleet.url)).lpush(f"endmark:{queue_name(model, None)}", "no message")
            wake(fleet.url, model, None)
            wait_until(lambda: waiting_messages(fleet.url, model, None) == 0)
            for job, count in ((before, rows), (after, 2)):
                wait_until(lambda job=job: load_job(store, job).state.is_final, START)
                assert load_job(store, job).state is JobState.COMPLETED
                assert [row for row, *_ in results(store, job)] == list(range(count))
            log = worker.log_path.read_text()
            assert "refused an item on the queue that is no message" in log
            assert not [secret for secret in ("d@ta", "d%40ta", "watch") if secret in log]
        finally:
            worker.stop(30)


def test_what_is_wrong_is_said_with_what_helps(fleet):
    other = fleet.url.replace("/main/", "/mian/")
    assert "know no master `mian`, but `main`: name it behind the hosts" in why_silent(other)
    with pytest.raises(BrokerError, match="know no master `mian`, but `main`") as caught:
        wake(other, "m", None)
    assert "d%40ta" not in str(caught.value)
    assert why_silent(f"sentinel://{fleet.place}") == "Authentication required."
    assert "invalid username-password pair" in why_silent(f"sentinel://:no@{fleet.place}")
    unwatched = why_silent(fleet.url.partition("?")[0])
    assert "no Sentinel answers" in unwatched
    assert "Authentication required" in unwatched
    fleet.kill(*fleet.sentinels[:2])
    assert why_silent(fleet.url) is None
    fleet.kill(fleet.sentinels[2])
    silence = why_silent(fleet.url)
    assert silence.startswith("no Sentinel answers (127.0.0.1:")
    assert silence.count("Connection refused") == 3
    with pytest.raises(BrokerError, match="no Sentinel answers"):
        wake(fleet.url, "m", None)


def test_tls_is_spoken_with_the_sentinels_and_the_master(tmp_path):
    """By ends of TLS before them; the Sentinel itself speaks none, and is not to notice for ten minutes."""
    data, watch = free_ports(2)
    proof = certificate(tmp_path)
    words = ["port 0", f"unixsocket {tmp_path / 'watch'}", f"sentinel monitor main 127.0.0.1 {data} 1"]
    words += ["sentinel down-after-milliseconds main 600000", f"dir {tmp_path}"]
    (tmp_path / "conf").write_text("\n".join(words))
    end = [sys.executable, "-m", "tests.cluster.tls", "127.0.0.1"]
    commands = [
        [find_binary(), "--port", "0", "--save", "", "--unixsocket", tmp_path / "data"],
        [find_binary(), tmp_path / "conf", "--sentinel"],
        [*end, str(data), proof, tmp_path / "data"],
        [*end, str(watch), proof, tmp_path / "watch"],
    ]
    root = Path(__file__).parents[2]
    url = f"sentinel://127.0.0.1:{watch}/main"
    with (tmp_path / "log").open("wb") as log:
        processes = [subprocess.Popen(words, stdout=log, stderr=log, cwd=root) for words in commands]
    try:
        wait_until(lambda: broker_reachable(f"{url}?ssl_cert_reqs=none"))
        wake(f"{url}?ssl_cert_reqs=none", "m", None, 2)
        assert waiting_messages(f"{url}?ssl_cert_reqs=none", "m", None) == 2
        assert "certificate verify failed" in why_silent(f"{url}?ssl_cert_reqs=required")
        assert "no Sentinel answers" in why_silent(url)
    finally:
        for process in processes:
            process.kill()
            process.wait()
