"""How long the parts of loading a model take, one after the other."""

import time


class Laps:
    """A clock that is told where each part ends."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._parts: list[tuple[str, float]] = []

    def end(self, part: str) -> None:
        """Note that a part has ended; the next one begins."""
        now = time.monotonic()
        self._parts.append((part, now - self._began))
        self._began = now

    def __str__(self) -> str:
        """Return the parts and their seconds, for a line of the log."""
        return ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self._parts)
