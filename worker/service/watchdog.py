"""The end of a process whose engine stands still: its leases run out, and other workers take its rows."""

import logging
import os
import threading
import time
from collections.abc import Callable

EXIT_STALLED = 70

log = logging.getLogger(__name__)


def _exit_now() -> None:
    """End the process without any clean-up: a thread stuck in the device's driver would not let it end."""
    logging.shutdown()
    os._exit(EXIT_STALLED)


class Watchdog:
    """Looks at the engine's step every `interval` seconds and ends the process when one takes too long.

    Time in which the process itself was stopped does not count against the engine.

    Args:
        step_began: returns when the step that runs began, None between steps.
        limit: seconds that a step may take.
        bite: what to do then.
    """

    def __init__(
        self,
        step_began: Callable[[], float | None],
        limit: float,
        *,
        interval: float = 1.0,
        bite: Callable[[], None] = _exit_now,
    ) -> None:
        self._step_began = step_began
        self._limit = limit
        self._interval = interval
        self._bite = bite
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        """Add up how long the same step has been running."""
        step: float | None = None
        stood = 0.0
        looked = time.monotonic()
        while not self._stopping.wait(self._interval):
            now = time.monotonic()
            began = self._step_began()
            if began is None or began != step:
                step, stood = began, 0.0
            else:
                stood += min(now - looked, 2 * self._interval)
            looked = now
            if stood > self._limit:
                log.critical("the engine has stood still for %.0f s: ending this process", stood)
                self._bite()
                return
