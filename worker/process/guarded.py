"""A thread that does not end unheard: its exception goes where the process can act on it."""

import logging
import threading
from collections.abc import Callable

Broken = Callable[[str, BaseException], None]  # told a thread's name and its exception, on that thread

log = logging.getLogger(__name__)


class Guarded(threading.Thread):
    """A daemon thread. Whatever its work raises is logged with its trace and handed to `broken`."""

    def __init__(self, name: str, work: Callable[[], None], broken: Broken) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._broken = broken

    def run(self) -> None:
        """Do the work."""
        try:
            self._work()
        except BaseException as error:
            log.critical("the thread `%s` broke", self.name, exc_info=error)
            self._broken(self.name, error)


def only_log(_name: str, _error: BaseException) -> None:
    """Leave it at the log."""
