"""A thread that does one thing every so often, and goes on when it fails."""

import logging
import threading
from collections.abc import Callable

from endmark.jobs.errors import EndmarkError

log = logging.getLogger(__name__)


class Periodic:
    """Calls `action` every `interval` seconds until stopped, the first time at once.

    An error is logged, once while it stays the same, and the action tried again: one that is no `EndmarkError` is
    a defect and is logged with its trace, for without a heartbeat the rows that run would be lost.
    """

    def __init__(self, name: str, interval: float, action: Callable[[], None]) -> None:
        self._name = name
        self._interval = interval
        self._action = action
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End; wait at most `timeout` seconds for the action that runs."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        """Repeat the action."""
        said = ""
        while True:
            try:
                self._action()
            except Exception as error:
                if str(error) != said:
                    self._say(error)
                said = str(error)
            else:
                said = ""
            if self._stopping.wait(self._interval):
                return

    def _say(self, error: Exception) -> None:
        """Log an error."""
        if isinstance(error, EndmarkError):
            log.warning("%s: %s%s", self._name, error, f" ({error.hint})" if error.hint else "")
        else:
            log.error("%s: a defect of Endmark", self._name, exc_info=error)
