"""The end of a process whose engine stands still, or one of whose threads has ended; others take its rows."""

import logging
import threading
import time
from collections.abc import Callable

from endmark.worker.process.guarded import Broken, Guarded

log = logging.getLogger(__name__)


class Stalled(Exception):
    """One step of the engine has taken too long."""


class ThreadEnded(Exception):
    """A thread that is to run as long as the process has ended."""


class Watchdog:
    """Looks every `interval` seconds at the engine's step, and whether all threads live.

    Time in which the process itself was stopped does not count against the engine.

    Args:
        step_began: returns when the step that runs began, None between steps.
        limit: seconds that a step may take.
        ended: returns the names of threads that have ended before their time.
        stalled: called when a step has taken too long.
        broken: told of a thread that has ended, this one too.
    """

    def __init__(
        self,
        step_began: Callable[[], float | None],
        limit: float,
        *,
        stalled: Callable[[Stalled], None],
        broken: Broken,
        ended: Callable[[], list[str]] = list,
        interval: float = 1.0,
    ) -> None:
        self._step_began = step_began
        self._limit = limit
        self._interval = interval
        self._ended = ended
        self._stalled = stalled
        self._broken = broken
        self._stopping = threading.Event()
        self.thread = Guarded("watchdog", self._run, broken)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self.thread.join()

    def _run(self) -> None:
        """Add up how long the same step has been running."""
        step: float | None = None
        stood = 0.0
        looked = time.monotonic()
        while not self._stopping.wait(self._interval):
            ended = self._ended()
            if ended:
                self._broken(ended[0], ThreadEnded("it has ended"))
                return
            now = time.monotonic()
            began = self._step_began()
            if began is None or began != step:
                step, stood = began, 0.0
            else:
                stood += min(now - looked, 2 * self._interval)
            looked = now
            if stood > self._limit:
                error = Stalled(f"the engine has stood still for {stood:.0f} s")
                log.critical("%s: ending this process", error)
                self._stalled(error)
                return
