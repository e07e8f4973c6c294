"""Shelves of before the ledger held their records: a JSON file for each file and batch, taken over at start."""

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from endmark.cli.http.refusals import Refused
from endmark.cli.serve.asked import window_seconds
from endmark.cli.serve.shelf import Shelf
from endmark.cli.terminal import note
from endmark.db.progress import job_status
from endmark.db.served import BATCH_ID, FILE_ID, NOBODY, Records
from endmark.db.served_batches import IN_PROGRESS, VALIDATING, ServedBatch
from endmark.db.served_before import job_of_name, take_batches, take_files
from endmark.db.served_files import PURPOSES, ServedFile
from endmark.jobs.datasets.openai import CHAT, COMPLETION
from endmark.jobs.errors import JobNotFound

_SHORT = re.compile(r"[\w.-]{1,40}", re.ASCII)
_FINAL = ("completed", "cancelled", "failed")
Record = TypeVar("Record")


def take_over(records: Records, shelf: Shelf) -> None:
    """Store in the ledger what the shelf has on record, and delete those records.

    One that cannot be read stays where it is, and a line says so.

    Raises:
        StoreError: the database cannot be used.
    """
    files = _read(shelf.folder / "files", lambda values: _file(values, shelf))
    batches = _read(shelf.folder / "batches", _batch)
    take_files(records, [file for _, _, file in sorted(files, key=lambda item: item[1])])
    found = [_with_job(records, batch) for _, _, batch in sorted(batches, key=lambda item: item[1])]
    take_batches(records, found)
    for path, _, _ in (*files, *batches):
        path.unlink()
    if files or batches:
        note(f"{len(files):,} files and {len(batches):,} batches are in the ledger now")


def _read(
    folder: Path, parse: Callable[[Mapping[str, Any]], tuple[tuple[int, str], Record]]
) -> list[tuple[Path, tuple[int, str], Record]]:
    """Return the records in a folder with their files, and what they are sorted by."""
    found = []
    for path in folder.glob("*.json"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            place, record = parse(values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
            note(f"`{path}` is no record and is left as it is: {error or type(error).__name__}")
            continue
        found.append((path, place, record))
    return found


def _file(values: Mapping[str, Any], shelf: Shelf) -> tuple[tuple[int, str], ServedFile]:
    """Return a file on record."""
    file = ServedFile(
        id=_text(values, "id"),
        owner=NOBODY,
        filename=whole(_text(values, "filename")),
        purpose=_text(values, "purpose"),
        bytes=_number(values, "bytes"),
        created_at=_number(values, "created_at"),
        expires_at=None,
    )
    if not FILE_ID.fullmatch(file.id) or file.purpose not in PURPOSES:
        raise ValueError("it is no file's")
    if not shelf.content(file.id).is_file():
        raise ValueError("its file is not there")
    return (file.created_at, file.id), file


def _batch(values: Mapping[str, Any]) -> tuple[tuple[int, str], ServedBatch]:
    """Return a batch on record."""
    batch_id, window = _text(values, "id"), _text(values, "completion_window")
    created, times = _number(values, "created_at"), values.get("times") or {}
    metadata, errors = values.get("metadata"), values.get("errors") or []
    if not BATCH_ID.fullmatch(batch_id) or values["endpoint"] not in (CHAT, COMPLETION):
        raise ValueError("it is no batch's")
    if not isinstance(errors, list) or not all(isinstance(error, dict) for error in errors):
        raise ValueError("`errors` is no list of errors")
    if metadata is not None:
        metadata = {whole(name): _text(metadata, name) for name in metadata}
    try:
        expires = created + window_seconds(window)
    except Refused:  # any text was taken
        expires = None
    state = _state(values, times, errors)
    batch = ServedBatch(
        id=batch_id,
        owner=NOBODY,
        endpoint=_text(values, "endpoint"),
        input_file_id=_optional(values, "input_file_id") or "",
        completion_window=window,
        metadata=metadata,
        output_seconds=None,
        created_at=created,
        expires_at=expires,
        state=state,
        ending="cancelled" if values.get("cancelled") and state in (VALIDATING, IN_PROGRESS) else None,
        job_id=_optional(values, "job_id"),
        errors=json.loads(whole(json.dumps(errors, ensure_ascii=False))),
        times={whole(name): _number(times, name) for name in times},
        total=0,
        completed=0,
        failed=0,
        output_file_id=_optional(values, "output_file_id"),
        error_file_id=_optional(values, "error_file_id"),
    )
    return (_number(values, "number"), batch_id), batch


def _state(values: Mapping[str, Any], times: Mapping[str, Any], errors: list[Any]) -> str:
    """Return the state that a batch had."""
    if errors:
        return "failed"
    if values.get("closed"):
        return next((state for state in _FINAL if f"{state}_at" in times), "completed")
    return VALIDATING if values.get("job_id") is None else IN_PROGRESS


def _with_job(records: Records, batch: ServedBatch) -> ServedBatch:
    """Return a batch with what its job says, and with its whole window from now on if it is open."""
    if batch.is_open:
        found = batch.job_id or job_of_name(records, batch.id)
        seconds = None if batch.expires_at is None else batch.expires_at - batch.created_at
        expires = None if seconds is None else int(time.time()) + seconds
        return replace(batch, job_id=found, expires_at=expires)
    if batch.job_id is not None:
        with suppress(JobNotFound):
            job = job_status(records.store, batch.job_id)
            return replace(batch, total=job.total, completed=job.succeeded, failed=job.failed)
    return batch


def whole(text: str) -> str:
    """Return the text without what no database and no file can hold: surrogates without their pairs, and NUL."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _text(values: Mapping[str, Any], name: str) -> str:
    """Return a text of a record."""
    found = values[name]
    if not isinstance(found, str):
        raise ValueError(f"`{name}` is no text")
    return whole(found)


def _optional(values: Mapping[str, Any], name: str) -> str | None:
    """Return an id of a record, or None."""
    found = values.get(name)
    if found is not None and (not isinstance(found, str) or not _SHORT.fullmatch(found)):
        raise ValueError(f"`{name}` is no id")
    return found


def _number(values: Mapping[str, Any], name: str) -> int:
    """Return a number of a record."""
    found = values[name]
    if type(found) is not int or not 0 <= found < 2**53:
        raise ValueError(f"`{name}` is no number")
    return found
