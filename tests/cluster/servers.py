"""Postgres and Valkey on a host of the cluster, to be killed and started again."""

import contextlib
import os
import shutil
import signal
import subprocess
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
        self._data = server.folder / "data"
        self._programs = server.programs
        self._host = host
        self._process = None

    def start(self):
        """Start it and wait until it answers."""
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        words = [
            str(self._programs / "postgres"),
            "-D",
            str(self._data),
            "-h",
            self._host.address,
            "-k",
            str(self._data),
        ]
        with (self._host.home / "postgres.log").open("ab") as log:
            self._process = self._host.start(words, user="pgserver", stdout=log, stderr=log)
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self._data)]
        _wait(lambda: subprocess.run(ready, check=False).returncode == 0, "Postgres does not start")

    def crash(self):
        """End it as a loss of power does, but for the disk's own cache."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def url(self, database, *, local=False):
        """The URL of a database: by the network, or by the socket."""
        if local:
            return f"postgresql://postgres@/{database}?host={self._data}"
        return f"postgresql://postgres@{self._host.address}/{database}"


class Valkey:
    """A broker on a host's address, which keeps nothing over a restart."""

    def __init__(self, host, *options):
        self._host = host
        self._options = options
        self._process = None
        self.url = f"redis://{host.address}:6379/0"
        self._socket = Path(tempfile.mkdtemp(prefix="endmark-valkey-")) / "socket"
        self.local = f"redis+socket://{self._socket}"

    def start(self):
        """Start it and wait until it answers."""
        words = [find_binary(), "--port", "6379", "--bind", self._host.address, "--protected-mode", "no"]
        words += ["--save", "", "--appendonly", "no", "--unixsocket", str(self._socket), *self._options]
        with (self._host.home / "valkey.log").open("ab") as log:
            self._process = self._host.start(words, stdout=log, stderr=log, cwd=self._host.home)
        _wait(lambda: why_silent(self.local) is None, "Valkey does not start")

    def configure(self, name, value):
        """Change a setting, whatever the network does; of one that is away, nothing."""
        with contextlib.suppress(RedisError):
            client(parse_address(self.local)).config_set(name, value)

    def crash(self):
        """SIGKILL it."""
        if self._process is not None:
            end(self._process)

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


def end(process):
    """SIGKILL a process's whole session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(condition, otherwise):
    deadline = time.monotonic() + _WAIT
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
