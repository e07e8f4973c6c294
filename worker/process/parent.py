"""A process that ends with the one that started it, however that one dies."""

import os
import sys
from collections.abc import Callable

from endmark.worker.process.guarded import Guarded, only_log


def when_parent_ends(action: Callable[[], None]) -> None:
    """Call `action`, on a thread of its own, when the pipe on standard input is closed at its other end.

    The kernel closes it when the parent dies, of SIGKILL too. A pipe that cannot be read counts as closed.
    """
    source = os.dup(sys.stdin.fileno())

    def watch() -> None:
        try:
            while os.read(source, 4096):
                pass
        finally:
            action()

    Guarded("parent", watch, only_log).start()
