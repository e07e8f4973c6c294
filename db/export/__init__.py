"""Results as files: one module a format, written beside the target and moved there when whole."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from db.connection import Store
from db.export import as_csv, as_jsonl
from db.export.stream import COLUMNS, Only, Result, stream_results
from db.jobs import load_job
from jobs.errors import UsageError

FORMATS = {"csv": as_csv.write, "jsonl": as_jsonl.write}
__all__ = ["FORMATS", "Only", "Result", "export_job", "stream_results"]


def export_job(
    store: Store,
    job_id: str,
    path: Path | None,
    *,
    format: str = "csv",
    only: Only | None = None,
    excel_safe: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write a job's rows with their results in input order; return how many.

    Args:
        path: the file; None for standard output. An interrupted export leaves what was there before.
        on_progress: called now and then with the rows written so far.

    Raises:
        UsageError: the format is unknown, or the file cannot be written.
    """
    write = FORMATS.get(format)
    if write is None:
        raise UsageError(f"unknown format `{format}`", hint=f"one of {', '.join(FORMATS)}")
    columns = [f"input_{name}" if name in ("row", *COLUMNS) else name for name in load_job(store, job_id).columns]
    count = 0

    def counted() -> Iterator[Result]:
        nonlocal count
        for result in stream_results(store, job_id, only=only):
            count += 1
            if on_progress is not None and count % 2000 == 0:
                on_progress(count)
            yield result

    with _target(path) as handle:
        write(handle, columns, counted(), excel_safe=excel_safe)
    return count


@contextmanager
def _target(path: Path | None) -> Iterator[IO[str]]:
    """Open the file beside its place, and move it there once it is whole."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write `{path}`: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
