"""Watching jobs until they have ended: redrawn on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from endmark.cli.progress import describe, what_it_does
from endmark.cli.terminal import note
from endmark.jobs.errors import EndmarkError, Interrupted
from endmark.jobs.patience import patiently
from endmark.jobs.progress import JobStatus

_REDRAW = 0.5  # seconds
_LINES_EVERY = 10.0
_CARE_EVERY = 15.0

View = Callable[[Sequence[JobStatus]], str]
Show = Callable[[Sequence[JobStatus]], None]
Result = TypeVar("Result")


def watched(read: Callable[[], list[JobStatus]], view: View, care: Callable[[], None]) -> list[JobStatus]:
    """Show the jobs again and again until all have ended; return how they stand then.

    Args:
        read: returns how they stand.
        view: draws them.
        care: called now and then.

    Raises:
        Interrupted: the user has seen enough.
    """
    cared_at = time.monotonic()
    try:
        with _redrawn(view) if sys.stderr.isatty() else _lines() as show:
            while True:
                found = read_patiently(read)
                if all(item.state.is_final for item in found):
                    return found
                show(found)
                time.sleep(_REDRAW)
                if time.monotonic() - cared_at > _CARE_EVERY:
                    cared_at = time.monotonic()
                    care()
    except KeyboardInterrupt:
        raise Interrupted("no longer watching; the jobs go on") from None


def read_patiently(read: Callable[[], Result]) -> Result:
    """Return what `read` gives; say once that its database is away, and wait for it.

    Raises:
        StoreError: it stays away.
    """
    said: list[EndmarkError] = []

    def say(error: EndmarkError) -> None:
        if not said:
            note(f"{error}; waiting for it: {error.hint}")
        said.append(error)

    return patiently(read, say, pause=_REDRAW)


@contextmanager
def _redrawn(view: View) -> Iterator[Show]:
    """Draw over what was drawn before, all at once, on a screen of its own.

    Every time the whole screen is drawn from its first line, so that what a worker in the background writes to the
    same terminal tears nothing for longer than until the next time.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(stderr=True), auto_refresh=False, screen=True) as live:
        yield lambda found: live.update(Text(view(found), no_wrap=True, overflow="ellipsis"), refresh=True)


@contextmanager
def _lines() -> Iterator[Show]:
    """Write a line for each job that has not ended, now and then."""
    shown_at: float | None = None

    def show(found: Sequence[JobStatus]) -> None:
        nonlocal shown_at
        if shown_at is not None and time.monotonic() - shown_at < _LINES_EVERY:
            return
        shown_at = time.monotonic()
        for item in found:
            if not item.state.is_final:
                note(f"job {item.id} {what_it_does(item)}: {describe(item)}")

    yield show
