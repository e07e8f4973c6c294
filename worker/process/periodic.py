"""A thread that does one thing every so often, and goes on when it fails."""

import logging
import threading
from collections.abc import Callable

from endmark.jobs.errors import EndmarkError
from endmark.worker.process.guarded import Broken, Guarded, only_log

_BUGS_AT_MOST = 3  # unforeseen exceptions in a row that a vital action may raise

log = logging.getLogger(__name__)


class Periodic:
    """Calls `action` every `interval` seconds until stopped, the first time at once.

    An error is logged, once while it stays the same, and the action tried again: one that is no `EndmarkError` is
    a bug and is logged with its trace, for without a heartbeat the rows that run would be lost.

    Args:
        broken: told of what ends the thread; and of a vital action's bug that has come three times in a row.
        vital: whether the process is of no use without the action.
    """

    def __init__(
        self,
        name: str,
        interval: float,
        action: Callable[[], None],
        *,
        broken: Broken = only_log,
        vital: bool = False,
    ) -> None:
        self._name = name
        self._interval = interval
        self._action = action
        self._broken = broken
        self._vital = vital
        self._stopping = False
        self._due = threading.Event()  # before the interval is over
        self.thread = Guarded(name, self._run, broken)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End; wait at most `timeout` seconds for the action that runs."""
        self._stopping = True
        self._due.set()
        self.thread.join(timeout)

    def wake(self) -> None:
        """Let the action be done at once, or once more after the one that runs."""
        self._due.set()

    def _run(self) -> None:
        """Repeat the action."""
        said = ""
        bugs = 0  # in a row
        while True:
            try:
                self._action()
            except Exception as error:
                if str(error) != said:
                    self._say(error)
                said = str(error)
                bugs = 0 if isinstance(error, EndmarkError) else bugs + 1
                if self._vital and bugs == _BUGS_AT_MOST:
                    self._broken(self._name, error)
            else:
                said, bugs = "", 0
            self._due.wait(self._interval)
            self._due.clear()
            if self._stopping:
                return

    def _say(self, error: Exception) -> None:
        """Log an error."""
        if isinstance(error, EndmarkError):
            log.warning("%s: %s%s", self._name, error, f" ({error.hint})" if error.hint else "")
        else:
            log.error("%s: a bug in Endmark", self._name, exc_info=error)
