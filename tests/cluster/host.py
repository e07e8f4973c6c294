"""A host: a network namespace on the wire, a home, and a clock of its own where there is a C compiler."""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from tests.cluster.wire import DEVICE

_PREFIX = "endmark-host-"
COMPILER = shutil.which("cc")  # without one all hosts have the machine's clock


def why_no_hosts():
    """Why this machine cannot have hosts; None if it can, or must, as in `make cluster`."""
    if os.environ.get("ENDMARK_HOSTS") == "required":
        return None
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    name = f"endmark-try-{os.getpid()}"
    try:
        done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no `ip` (Debian's iproute2)"
    if done.returncode:
        return f"`ip netns add`: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def sweep():
    """Remove the hosts of test runs that were killed, with all that still runs on them."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split("\n")
    for name in (line.partition(" ")[0] for line in listed if line.startswith(_PREFIX)):
        if Path("/proc", name.removeprefix(_PREFIX).partition("-")[0]).exists():
            continue
        running = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout
        for process in running.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        Host._ip("netns", "del", name)


class Host:
    """One host; processes are started on it by `start`.

    Args:
        wire: what it is attached to.
        name: how workers on it call themselves.
        address: its IPv4 address, in a /24 with all others.
        home: its folder, made.
    """

    def __init__(self, wire, name, address, home):
        self.name, self.address, self.home = name, address, home
        home.mkdir(parents=True, exist_ok=True)
        self._namespace = f"{_PREFIX}{os.getpid()}-{name}"
        self._clocks = Path(tempfile.mkdtemp(prefix="endmark-clock-"))
        self._clocks.chmod(0o755)  # not under pytest's folders: the database runs as another user
        self._clock = self._clocks / "ahead"
        self.set_clock(0)
        if COMPILER:
            source = Path(__file__).with_name("clock.c")
            subprocess.run(
                [COMPILER, "-shared", "-fPIC", "-O1", "-o", self._clocks / "clock.so", source], check=True
            )
        self._ip("netns", "add", self._namespace)
        wire.attach(self._namespace, address)
        for words in (
            ("addr", "add", f"{address}/24", "dev", DEVICE),
            ("link", "set", DEVICE, "up"),
            ("link", "set", "lo", "up"),
        ):
            self._ip("-n", self._namespace, *words)

    def start(self, words, *, env=None, user=None, **options):
        """Start a command on this host; return its process, the leader of a session of its own."""
        values = dict(env or {})
        if COMPILER:
            libraries = [str(self._clocks / "clock.so"), *filter(None, [values.get("LD_PRELOAD")])]
            values |= {"LD_PRELOAD": ":".join(libraries), "ENDMARK_CLOCK": str(self._clock)}
        owner = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
        before = [
            "ip",
            "netns",
            "exec",
            self._namespace,
            *owner,
            "env",
            *(f"{name}={value}" for name, value in values.items()),
        ]
        return subprocess.Popen([*before, *words], start_new_session=True, **options)

    def set_clock(self, seconds, gains=0):
        """Put the clock that many seconds ahead, for all its processes at once; negative puts it back.

        Args:
            gains: parts in a million by which it goes faster from now on; negative lets it go slower.
        """
        file = os.open(self._clock, os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(file, struct.pack("=qqq", seconds, gains, time.monotonic_ns()), 0)
        os.close(file)

    def remove(self):
        """Remove the namespace; processes on it have ended."""
        self._ip("netns", "del", self._namespace)
        shutil.rmtree(self._clocks)

    @staticmethod
    def _ip(*words):
        subprocess.run(["ip", *words], check=True)
