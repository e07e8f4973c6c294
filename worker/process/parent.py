"""A process that ends with the one that started it, however that one dies."""

import os
import sys
import threading
from collections.abc import Callable


def when_parent_ends(action: Callable[[], None]) -> None:
    """Call `action`, on a thread of its own, when the pipe on standard input is closed at its other end.

    The kernel closes it when the parent dies, of SIGKILL too.
    """
    source = os.dup(sys.stdin.fileno())

    def watch() -> None:
        while os.read(source, 4096):
            pass
        action()

    threading.Thread(target=watch, name="parent", daemon=True).start()
