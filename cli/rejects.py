"""Rows of a dataset that cannot be used: written to a file beside it, each with its line and the reason."""

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from endmark.cli.terminal import note
from endmark.jobs.datasets import STDIN
from endmark.jobs.errors import Problem, UsageError
from endmark.jobs.outputs import check_writable, is_regular, written
from endmark.jobs.remote import file_name, is_url
from endmark.jobs.spelling import counted

_REJECTED = ["line", "reason", "content"]  # the columns of bad rows


def bad_rows(path: str, *, skip: bool) -> AbstractContextManager[Callable[[Problem, str], None] | None]:
    """Return what takes a dataset's bad rows, to be given to `checked_rows`; None where each is an error."""
    return _rejects(path) if skip else _no_rejects()


@contextmanager
def _no_rejects() -> Iterator[None]:
    """Take no bad row: each is an error."""
    yield None


@contextmanager
def _rejects(dataset: str) -> Iterator[Callable[[Problem, str], None]]:
    """Write bad rows to `<dataset>.rejected.csv`: line, reason, and the row as it stands; no file if none is bad.

    Bad rows of before are replaced, and no other file.

    Raises:
        UsageError: it cannot be written.
    """
    path = rejects_of(dataset)
    check_writable(path)
    if _holds_something_else(path):
        raise UsageError(
            f"`{path}` is there, and holds something else than bad rows",
            hint="move it away: they are written there",
        )
    count = 0
    with ExitStack() as files:
        writer: Any = None

        def reject(problem: Problem, raw: str) -> None:
            nonlocal count, writer
            if writer is None:
                writer = csv.writer(files.enter_context(written(path, errors="surrogateescape")))
                writer.writerow(_REJECTED)
            count += 1
            writer.writerow([problem.line, problem.reason, raw.rstrip("\r\n")])

        yield reject
    if count:
        note(f"{counted(count, 'bad row')} left out, with reasons in `{path}`")


def _holds_something_else(path: Path) -> bool:
    """Whether a file is there that holds no bad rows of before."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline(100).strip() not in (b"", ",".join(_REJECTED).encode())


def rejects_of(dataset: str) -> Path:
    """Return the file of a dataset's bad rows: beside it, or in the current folder if it is no regular file."""
    if is_url(dataset):
        return Path(f"{file_name(dataset)}.rejected.csv")
    if dataset == STDIN or not is_regular(Path(dataset)):
        return Path("stdin.rejected.csv")
    return Path(f"{dataset}.rejected.csv")
