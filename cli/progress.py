"""Progress on standard error: a bar on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from endmark.cli.terminal import note, one_line
from endmark.jobs.progress import JobStatus
from endmark.jobs.spelling import speed
from endmark.jobs.vocabulary import JobState

if TYPE_CHECKING:
    from rich.console import Console

_LINE_EVERY = 10.0  # seconds between plain lines
_COUNT_EVERY = 0.1
_SHORTEST = 8  # columns of what is being done
_BAR = 14  # columns of the bar itself and the spaces around it

Show = Callable[[JobStatus, str], None]  # what to show, and what is being done


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None] | None]:
    """Show a count of rows while something quick goes on; on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    shown_at = 0.0

    def show(count: int) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at > _COUNT_EVERY:
            shown_at = now
            click.echo(f"\r{count:,} rows {what}", err=True, nl=False)

    try:
        yield show
    finally:
        if shown_at:
            click.echo("\r\x1b[K", err=True, nl=False)


@contextmanager
def job_progress() -> Iterator[Show]:
    """Show how far a job is."""
    with _bar() if sys.stderr.isatty() else _cell() if _in_a_cell() else _lines() as show:
        yield show


def _in_a_cell() -> bool:
    """Whether a notebook's kernel runs this; a program that has merely imported one has no cell to draw in."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


@contextmanager
def _cell() -> Iterator[Show]:
    """Draw over one line in a notebook's cell."""
    from IPython.display import display

    line = display({"text/plain": ""}, raw=True, display_id=True)
    yield lambda status, doing: line.update({"text/plain": f"{doing}: {describe(status)}"}, raw=True)


@contextmanager
def _lines() -> Iterator[Show]:
    """Write a line now and then, and one at the end."""
    shown_at = time.monotonic()

    def show(status: JobStatus, doing: str) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= _LINE_EVERY or status.state.is_final:
            shown_at = time.monotonic()
            note(f"{doing}: {describe(status)}")

    yield show


@contextmanager
def _bar() -> Iterator[Show]:
    """Draw a bar."""
    from rich.console import Console

    with drawn_bar(Console(stderr=True)) as draw:

        def show(status: JobStatus, doing: str) -> None:
            draw(doing, status.succeeded + status.failed, status.total, figures(status))

        yield show


Draw = Callable[[str, int, int | None, Sequence[str]], None]  # doing what, how much is done, of how much, figures


@contextmanager
def drawn_bar(console: "Console") -> Iterator[Draw]:
    """Draw a bar in one line, however narrow the terminal: figures that find no room are left out, the last first.

    Notes that are written meanwhile stay above it.
    """
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, numbers="")

        def draw(doing: str, done: int, total: int | None, numbers: Sequence[str]) -> None:
            room = console.width - _BAR
            first = len(numbers[0]) if numbers else 0
            doing = one_line(doing, max(_SHORTEST, room - first))
            text = fitted(numbers, room - len(doing))
            progress.update(task, description=doing, total=total, completed=done, numbers=text)

        yield draw


def fitted(parts: Sequence[str], width: int) -> str:
    """Return as many of the parts as fit, the first in any case."""
    text = parts[0] if parts else ""
    for part in parts[1:]:
        if len(text) + 2 + len(part) > width:
            break
        text += f", {part}"
    return text


def describe(status: JobStatus) -> str:
    """Return a job's progress in one line."""
    return ", ".join(figures(status))


def figures(status: JobStatus) -> list[str]:
    """Return a job's progress, the most important first.

    How its answers ended is told when all have: long ones end last, and of those that ended so far none was cut.
    """
    done = status.succeeded + status.failed
    parts = [f"{done:,}/{status.total:,} rows"]
    if status.eta_seconds is not None and status.silent_seconds is None:
        parts.append(f"{duration(status.eta_seconds)} left")
    if status.failed:
        parts.append(f"{status.failed:,} failed")
    if done and status.silent_seconds is None:
        parts.append(speed(status.tokens_per_second))
    if done and status.state.is_final:
        parts.append(f"complete {percent(status.complete, done)}")
        parts.append(f"EOS {percent(status.ended_with_eos, done)}")
        parts.append(f"truncated {percent(status.truncated, done)}")
    return parts


def what_it_does(status: JobStatus) -> str:
    """Return what a job's state means to the eye."""
    if status.state in (JobState.QUEUED, JobState.RUNNING):
        if not status.workers:
            return "waiting for a worker"
        if status.silent_seconds is not None:
            return f"waiting for a worker that is silent for {status.silent_seconds:.0f} s"
        return "running" if status.running or status.succeeded or status.failed else "queued"
    return status.state.value.replace("_", " ")


def percent(part: int, whole: int) -> str:
    """Return a share; only what is none or all of the whole is called so."""
    if not whole:
        return "–"
    rounded = round(100 * part / whole)
    if rounded == 0 and part:
        return "<1 %"
    return ">99 %" if rounded == 100 and part < whole else f"{rounded} %"


def duration(seconds: float) -> str:
    """Return a span of time as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
