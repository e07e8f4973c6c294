"""Postgres and Valkey on a host of the cluster, to be killed and started again."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from redis.exceptions import RedisError

from endmark.jobs.broker.address import client, parse_address, why_silent
from endmark.jobs.broker.server import find_binary
from tests.integration.postgres_server import PostgresServer

_WAIT = 30.0


class Postgres:
    """A server on a host's address, over a data folder that outlives it; the tests reach it by a unix socket.

    Args:
        server: the stopped server whose data it runs on.
        host: where it runs.
    """

    def __init__(self, server, host):
        self._data = self._socket = server.folder / "data"
        self._copies = []  # folders of servers that have taken over
        self._programs = server.programs
        self._host = host
        self._process = None

    def start(self):
        """Start it, unless it runs, and wait until it answers."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._run(self._data, self._socket, "-h", self._host.address)

    def _run(self, data, socket, *options):
        """Start a server on a data folder, and wait until it answers on its socket."""
        (data / "postmaster.pid").unlink(missing_ok=True)
        words = [str(self._programs / "postgres"), "-D", str(data), "-k", str(socket), *options]
        with (self._host.home / "postgres.log").open("ab") as log:
            process = self._host.start(words, user="pgserver", stdout=log, stderr=log)
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(socket)]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, "Postgres does not start")
        return process

    def fail_over(self, behind=1.0):
        """Let a second server take over by the address of the first, without the last that the first has stored.

        A first one that was killed just before comes back for that long.

        Args:
            behind: seconds by which it lacks behind.

        Returns:
            From when to when, by the monotonic clock, the first stored what is lost.
        """
        self.start()
        copy = Path(tempfile.mkdtemp(prefix="endmark-standby-"))
        self._copies.append(copy)
        shutil.chown(copy, "pgserver", "pgserver")
        for file in self._data.glob(".*.json"):  # the package's own note, which the server must be able to copy
            shutil.chown(file, "pgserver", "pgserver")
        made = ["pg_basebackup", "-h", self._socket, "-U", "postgres", "-D", copy / "data", "-c", "fast", "-R"]
        made[0] = self._programs / made[0]
        assert self._host.start([str(word) for word in made], user="pgserver").wait() == 0
        standby = self._run(copy / "data", copy, "-h", "")
        following = "SELECT status FROM pg_stat_wal_receiver"
        wait_for(lambda: self._ask(copy, following) == "streaming", "the second server does not follow")
        self._ask(copy, "ALTER SYSTEM SET primary_conninfo = ''")
        self._ask(copy, "SELECT pg_reload_conf()")
        wait_for(lambda: self._ask(copy, following) == "", "the second server follows still")
        begin = time.monotonic()
        time.sleep(behind)
        self.crash()
        end = time.monotonic()
        assert self._ask(copy, "SELECT pg_promote()") == "t"
        standby.send_signal(signal.SIGINT)
        standby.wait()
        self._data = copy / "data"
        self.start()
        return begin, end

    def _ask(self, socket, statement):
        """What a server on a socket answers."""
        words = [self._programs / "psql", "-h", socket, "-U", "postgres", "-Atc", statement]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    def remove(self):
        """End it for good; the data that it was given stay."""
        self.crash()
        for copy in self._copies:
            shutil.rmtree(copy)

    def crash(self):
        """End it as a loss of power does, but for the disk's own cache."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def url(self, database, *, local=False):
        """The URL of a database: by the network, or by the socket."""
        if local:
            return f"postgresql://postgres@/{database}?host={self._socket}"
        return f"postgresql://postgres@{self._host.address}/{database}"


class Valkey:
    """A broker on a host's address, which keeps nothing over a restart.

    Args:
        host: where it runs.
        secured: whether it speaks TLS alone and asks for a password.
    """

    def __init__(self, host, *, secured=False):
        self._host = host
        self._processes = []
        folder = Path(tempfile.mkdtemp(prefix="endmark-valkey-"))
        self._socket = folder / "socket"
        self._certificate = certificate(folder) if secured else None
        password = f":{secrets.token_hex(8)}@" if secured else ""
        self._password = password.strip(":@")
        self.local = f"redis+socket://{password}{self._socket}"
        self.url = f"redis://{host.address}:6379/0"
        if secured:
            self.url = f"rediss://{password}{host.address}:6379/0?ssl_cert_reqs=none"

    def start(self):
        """Start it and wait until it answers."""
        words = [find_binary(), "--port", "0" if self._certificate else "6379", "--bind", self._host.address]
        words += ["--protected-mode", "no", "--save", "", "--appendonly", "no", "--unixsocket", str(self._socket)]
        words += ["--requirepass", self._password] if self._password else []
        self._start(words, self._host.home)
        if self._certificate:
            place = [self._host.address, "6379", str(self._certificate), str(self._socket)]
            self._start([sys.executable, "-m", "tests.cluster.tls", *place], Path(__file__).parents[2])
        wait_for(lambda: why_silent(self.local) is None, "Valkey does not start")

    def _start(self, words, folder):
        with (self._host.home / "valkey.log").open("ab") as log:
            self._processes.append(self._host.start(words, stdout=log, stderr=log, cwd=folder))

    def configure(self, name, value):
        """Change a setting, whatever the network does; of one that is away, nothing."""
        with contextlib.suppress(RedisError):
            client(parse_address(self.local)).config_set(name, value)

    def listeners(self):
        """How many clients wait for messages."""
        clients = client(parse_address(self.local)).client_list()
        return sum(item["cmd"] in ("brpop", "bzpopmin", "subscribe", "psubscribe") for item in clients)

    def crash(self):
        """SIGKILL it."""
        while self._processes:
            end(self._processes.pop())

    def remove(self):
        """End it for good."""
        self.crash()
        shutil.rmtree(self._socket.parent)


def data_folder():
    """A Postgres server, stopped, that lets everybody on the cluster's network in."""
    server = PostgresServer()
    server.stop()
    with (server.folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.0.0.0/8 trust\n")
    return server


def certificate(folder):
    """A self-signed certificate with its key, in one file."""
    path = folder / "broker.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=broker", "-keyout", path,
         "-out", folder / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + (folder / "certificate").read_text())
    return path


def end(process):
    """SIGKILL a process's whole session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition, otherwise):
    """Wait until something holds, or fail with words."""
    deadline = time.monotonic() + _WAIT
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
