"""Results as files: one module a format, found by the name that the file is to have."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import IO, Any

from endmark.db.connection import Store
from endmark.db.export.fields import with_fields
from endmark.db.export.request import Export, Format
from endmark.db.export.stream import (
    Batch,
    Only,
    Result,
    result_columns,
    rows_of_part,
    stream_batches,
    stream_results,
)
from endmark.db.export.traces import write_traces
from endmark.db.jobs import load_job
from endmark.jobs.compression import SUFFIXES as COMPRESSED
from endmark.jobs.compression import split_name
from endmark.jobs.errors import UsageError
from endmark.jobs.outputs import as_binary, check_writable, is_regular, unwritable, written
from endmark.jobs.spelling import nearest

_MODULES = sorted(item.name for item in iter_modules(__path__) if item.name.startswith("as_"))
_FOUND = {
    name: format for module in _MODULES for name, format in import_module(f"{__name__}.{module}").FORMATS.items()
}
FORMATS: Mapping[str, Format] = dict(sorted(_FOUND.items(), key=lambda item: item[1].binary))  # text ones first
SUFFIXES = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}
__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Only",
    "Result",
    "check_target",
    "export_job",
    "export_traces",
    "format_of",
    "stream_results",
]


def format_of(path: Path | None, wanted: str | None = None) -> str:
    """Return the format of a file of results: the one wanted, else what its name says, else CSV.

    Args:
        path: the file; None for standard output.

    Raises:
        UsageError: there is no such format, or the name ends in something else.
    """
    if wanted is not None:
        if wanted not in FORMATS:
            raise UsageError(
                f"unknown format `{wanted}`", hint=nearest(wanted, FORMATS, f"one of {', '.join(FORMATS)}")
            )
        return wanted
    if path is None:
        return "csv"
    name, compression = split_name(path.name)
    suffix = Path(name).suffix.lower()
    if suffix in SUFFIXES:
        if compression and FORMATS[SUFFIXES[suffix]].binary:
            raise UsageError(f"`{path}`: a `{suffix}` file is compressed already", hint=f"name it `{name}`")
        return SUFFIXES[suffix]
    if suffix and is_regular(path):
        raise UsageError(
            f"`{path}`: there is no format for `{suffix}`",
            hint=f"choose from {', '.join(SUFFIXES)}; text ones may have {', '.join(COMPRESSED)} behind",
        )
    return "csv"


def check_target(path: Path, format: str | None = None, *, room: int = 0) -> None:
    """Refuse a file of results that could not be written in the end.

    Args:
        format: one of `FORMATS`; None to tell it by the name.
        room: bytes that it will have at least.

    Raises:
        UsageError: its name says no format, or it cannot be written.
        MissingDependency: the format, or its compression, needs an extra that is not installed.
    """
    chosen = format_of(path, format)
    FORMATS[chosen].check()
    check_writable(path, room=room)
    beside = FORMATS[chosen].beside
    if beside is not None and is_regular(path):
        check_writable(_errors_of(path, beside))


def export_job(
    store: Store,
    job_id: str,
    path: Path | None,
    *,
    format: str = "csv",
    only: Only | None = None,
    excel_safe: bool = False,
    parse: bool = False,
    unanswered: tuple[str, str] | None = None,
    part: tuple[int, int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write a job's rows with their results in input order; return how many.

    Args:
        path: the file; None for standard output. An interrupted export leaves what was there before.
        parse: give the fields of JSON answers columns of their own.
        unanswered: code and message of rows without a result, in the format `openai`.
        part: the number of a part, from 1, and how many there are; None for all rows. Columns and their types are
            the same in all parts.
        on_progress: called now and then with the rows written so far.

    Raises:
        UsageError: the format is unknown, or the file cannot be written.
        MissingDependency: the format needs an extra that is not installed.
    """
    chosen = FORMATS[format_of(path, format)]
    job = load_job(store, job_id)
    rows = None if part is None else rows_of_part(store, job_id, *part)
    count = 0

    def counted() -> Iterator[Batch]:
        nonlocal count
        count = 0
        for batch in stream_batches(store, job_id, only=only, logprobs=chosen.logprobs, rows=rows):
            count += len(batch.rows)
            if on_progress is not None:
                on_progress(count)
            yield batch

    with ExitStack() as files:
        beside = partial(_beside, files, path) if path is not None and is_regular(path) else None
        handle = files.enter_context(_target(path, binary=chosen.binary))
        whole = None if part is None else partial(stream_batches, store, job_id, only=only)
        export = Export(job, result_columns(job.columns), counted, excel_safe, unanswered, beside, whole)
        chosen.write(handle, with_fields(export) if parse else export)
    return count


def export_traces(store: Store, job_id: str, path: Path) -> int:
    """Write what the model thought of ending, row by row, to a file of JSON lines; return how many rows.

    Raises:
        UsageError: the file cannot be written.
    """
    with written(path) as handle:
        return write_traces(handle, store, load_job(store, job_id))


def _beside(files: ExitStack, path: Path, ending: str) -> IO[str]:
    """Open a second file next to the target."""
    return files.enter_context(written(_errors_of(path, ending)))


def _errors_of(path: Path, ending: str) -> Path:
    """Return the second file's name: `results.jsonl.gz` has `results.errors.jsonl.gz`."""
    name, compression = split_name(path.name)
    return path.with_name(Path(name).with_suffix(f".{ending}").name + compression)


@contextmanager
def _target(path: Path | None, *, binary: bool) -> Iterator[IO[Any]]:
    """Open the file, or standard output."""
    if path is not None:
        with written(path, binary=binary) as handle:
            yield handle
        return
    try:
        yield as_binary(sys.stdout) if binary else sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # the reader has had enough, which is no error
    except OSError as error:
        raise unwritable("standard output", error) from error
