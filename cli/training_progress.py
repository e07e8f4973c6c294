"""The progress of a fine-tuning on standard error: a bar on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from endmark.cli.progress import drawn_bar, duration
from endmark.cli.terminal import note
from endmark.jobs.finetuning.request import FinetuneProgress

_LINE_EVERY = 10.0  # seconds between plain lines

Show = Callable[[FinetuneProgress], None]


@contextmanager
def training_progress() -> Iterator[Show]:
    """Show what is being done and how far it is; notes stay on the screen."""
    with _bar() if sys.stderr.isatty() else _lines() as show:
        yield show


@contextmanager
def _lines() -> Iterator[Show]:
    """Write a line when something else is being done, and now and then."""
    shown_at, doing = 0.0, ""

    def show(progress: FinetuneProgress) -> None:
        nonlocal shown_at, doing
        for line in progress.notes:
            note(line)
        last = 0 < progress.steps == progress.step
        if progress.doing != doing or last or time.monotonic() - shown_at >= _LINE_EVERY:
            shown_at, doing = time.monotonic(), progress.doing
            note(f"{progress.doing}: {', '.join(numbers(progress))}" if progress.steps else progress.doing)

    yield show


@contextmanager
def _bar() -> Iterator[Show]:
    """Draw a bar."""
    from rich.console import Console

    console = Console(stderr=True)
    with drawn_bar(console) as draw:

        def show(progress: FinetuneProgress) -> None:
            for line in progress.notes:
                console.print(line, markup=False, highlight=False)
            figures = numbers(progress) if progress.steps else []
            draw(progress.doing, progress.step, progress.steps or None, figures)

        yield show


def numbers(progress: FinetuneProgress) -> list[str]:
    """Return step, loss and time left."""
    parts = [f"step {progress.step:,} of {progress.steps:,}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return parts
