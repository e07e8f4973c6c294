"""The broker: the one that the settings name, or Endmark's own server on a unix socket under its home.

Its own server is shared by every process of one home. Each holds a shared lock on one file for as long as it
uses the server; the kernel drops the lock of a process that dies, so whoever releases last, and finds that it
can lock the file alone, ends the server.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from endmark.jobs.broker.address import answers, mask, why_silent
from endmark.jobs.broker.server import Server
from endmark.jobs.errors import BrokerError
from endmark.jobs.launch.locks import try_lock
from endmark.jobs.private import open_private
from endmark.jobs.settings import Settings

_LOCK_WAIT = 30.0  # seconds to wait for another process that starts or ends the server


def find_broker(settings: Settings) -> str | None:
    """Return the broker's URL, or None if none is set and Endmark's own server does not run."""
    if settings.broker_url:
        return settings.broker_url
    url = Server(settings.home / "broker").url
    return url if answers(url) else None


def broker_reachable(url: str | None, timeout: float = 1.0) -> bool:
    """Whether the broker answers within `timeout` seconds; False for None.

    Raises:
        BrokerError: it is not a URL of a broker.
    """
    return url is not None and answers(url, timeout)


def ensure_broker(settings: Settings) -> "Broker":
    """Return a broker that answers, starting Endmark's own server if none is set and it does not run.

    Raises:
        BrokerError: the broker that is set does not answer, or Endmark's own cannot be started.
    """
    if settings.broker_url:
        reason = why_silent(settings.broker_url, timeout=5.0)
        if reason is not None:
            raise BrokerError(
                f"the broker at `{mask(settings.broker_url)}` does not answer: {reason}",
                hint="start it, or unset ENDMARK_BROKER_URL and Endmark starts its own",
            )
        return Broker(url=settings.broker_url, started_here=False)
    server = Server(settings.home / "broker")
    server.prepare()
    users = open_private(server.folder / "users.lock")
    try:
        with _alone(server):
            fcntl.flock(users, fcntl.LOCK_SH)
            started = not answers(server.url, timeout=5.0)
            if started:
                server.start()
    except BaseException:
        users.close()
        raise
    return Broker(url=server.url, started_here=started, server=server, users=users)


@dataclass(slots=True)
class Broker:
    """A broker in use by this process, until `release`."""

    url: str
    started_here: bool  # whether this process started the server
    server: Server | None = None  # Endmark's own; None for a broker that the settings name
    users: IO[bytes] | None = None  # holds the shared lock

    def revive(self) -> bool:
        """Start Endmark's own server again if it has died; return whether it had.

        Raises:
            BrokerError: it cannot be started.
        """
        if self.server is None or self.users is None or answers(self.server.url):
            return False
        with _alone(self.server):
            if answers(self.server.url, timeout=5.0):
                return False
            self.server.start()
        return True

    def release(self) -> None:
        """Stop using the broker; the last user of Endmark's own server ends it. Harmless when repeated."""
        users, self.users = self.users, None
        if users is None or self.server is None:
            return
        with users, _alone(self.server):
            if not try_lock(users):
                return  # others use it
            self.server.stop()

    def __enter__(self) -> "Broker":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def _alone(server: Server) -> Iterator[None]:
    """Be the only process that starts or ends the server."""
    path: Path = server.folder / "start.lock"
    deadline = time.monotonic() + _LOCK_WAIT
    with open_private(path) as lock:
        while not try_lock(lock):
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"another process has held `{path}` for {_LOCK_WAIT:.0f} s",
                    hint=f"end it (this is process {os.getpid()}), then try again",
                )
            time.sleep(0.05)
        yield
