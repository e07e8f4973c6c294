"""How fast a count grows, over the last few seconds."""

import time
from collections import deque
from collections.abc import Callable


class Speed:
    """Looks at a count whenever it is asked, and compares with what it saw up to `window` seconds before."""

    def __init__(
        self, count: Callable[[], int], *, window: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._window = window
        self._clock = clock
        self._seen = deque([(clock(), count())])

    def per_second(self) -> float:
        """Return the growth a second."""
        now, count = self._clock(), self._count()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window:
            self._seen.popleft()
        then, before = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0
