"""Results as files: one module a format, written beside the target and moved there when whole."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from endmark.db.connection import Store
from endmark.db.export import as_csv, as_jsonl, as_openai, as_parquet
from endmark.db.export.request import Export, Format
from endmark.db.export.stream import COLUMNS, Only, Result, stream_results
from endmark.db.export.traces import write_traces
from endmark.db.jobs import load_job
from endmark.jobs.errors import UsageError

FORMATS = {
    "csv": Format(as_csv.write),
    "jsonl": Format(as_jsonl.write),
    "parquet": Format(as_parquet.write, binary=True),
    "openai": Format(as_openai.write),
}
__all__ = ["FORMATS", "Only", "Result", "export_job", "export_traces", "stream_results"]


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
        MissingDependency: the format needs an extra that is not installed.
    """
    chosen = FORMATS.get(format)
    if chosen is None:
        raise UsageError(f"unknown format `{format}`", hint=f"one of {', '.join(FORMATS)}")
    job = load_job(store, job_id)
    count = 0

    def counted() -> Iterator[Result]:
        nonlocal count
        count = 0
        for result in stream_results(store, job_id, only=only):
            count += 1
            if on_progress is not None and count % 2000 == 0:
                on_progress(count)
            yield result

    columns = tuple(f"input_{name}" if name in ("row", *COLUMNS) else name for name in job.columns)
    with ExitStack() as files:
        beside = None if path is None else partial(_beside, files, path)
        handle = files.enter_context(_target(path, binary=chosen.binary))
        chosen.write(handle, Export(job, columns, counted, excel_safe, beside))
    return count


def export_traces(store: Store, job_id: str, path: Path) -> int:
    """Write what the model thought of ending, row by row, to a file of JSON lines; return how many rows.

    Raises:
        UsageError: the file cannot be written.
    """
    with _target(path) as handle:
        return write_traces(handle, store, load_job(store, job_id))


def _beside(files: ExitStack, path: Path, ending: str) -> IO[str]:
    """Open a second file next to the target: `results.jsonl` has `results.errors.jsonl`."""
    return files.enter_context(_target(path.with_suffix(f".{ending}")))


@contextmanager
def _target(path: Path | None, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open the file beside its place, and move it there once it is whole."""
    if path is None:
        try:
            yield _standard_output(binary)
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # the reader has had enough, which is no error
        except OSError as error:
            raise _unwritable("standard output", error) from error
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") if binary else beside.open("w", encoding="utf-8", newline="") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    except OSError as error:
        raise _unwritable(f"`{path}`", error) from error
    finally:
        beside.unlink(missing_ok=True)


def _unwritable(what: str, error: OSError) -> UsageError:
    """Return the error for a target that does not take the results."""
    return UsageError(f"cannot write {what}: {error.strerror}", hint="make room, or name another place")


def _standard_output(binary: bool) -> IO[Any]:
    """Return standard output for text or bytes."""
    if not binary:
        return sys.stdout
    raw: IO[bytes] | None = getattr(sys.stdout, "buffer", None)
    if raw is None:
        raise UsageError("this format is no text for a terminal", hint="name a file: `-o results.parquet`")
    return raw
