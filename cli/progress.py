"""Progress on standard error: a bar on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from endmark.cli.terminal import note
from endmark.jobs.vocabulary import JobState, JobStatus

_LINE_EVERY = 10.0  # seconds between plain lines
_COUNT_EVERY = 0.1

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
    with _bar() if sys.stderr.isatty() else _lines() as show:
        yield show


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
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, numbers="")

        def show(status: JobStatus, doing: str) -> None:
            done = status.succeeded + status.failed
            progress.update(task, description=doing, total=status.total, completed=done, numbers=describe(status))

        yield show


def describe(status: JobStatus) -> str:
    """Return a job's progress in one line."""
    done = status.succeeded + status.failed
    parts = [f"{done:,}/{status.total:,} rows"]
    if done:
        parts.append(f"{status.tokens_per_second:,.0f} tokens/s")
        parts.append(f"EOS {percent(status.ended_with_eos, done)}")
        parts.append(f"truncated {percent(status.truncated, done)}")
    if status.failed:
        parts.append(f"{status.failed:,} failed")
    if status.eta_seconds is not None:
        parts.append(f"{duration(status.eta_seconds)} left")
    return ", ".join(parts)


def what_it_does(status: JobStatus) -> str:
    """Return what a job's state means to the eye."""
    if status.state in (JobState.QUEUED, JobState.RUNNING):
        if not status.workers:
            return "waiting for a worker"
        return "running" if status.running or status.succeeded or status.failed else "queued"
    return status.state.value.replace("_", " ")


def percent(part: int, whole: int) -> str:
    """Return a share."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def duration(seconds: float) -> str:
    """Return a span of time as h:mm:ss, or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
