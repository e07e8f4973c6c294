"""What the service keeps on disk: uploaded and finished files, and a record of each batch, under one folder.

A file is there whole or not at all; a record is replaced in one step. One service uses a folder at a time, and
the folder's lock sees to it.
"""

import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from endmark.jobs.errors import UsageError
from endmark.jobs.launch.locks import try_lock

_FILE_ID = re.compile(r"file-[0-9a-f]{24}")
_BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as the API describes it."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What is known of a batch besides its job."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    number: int  # counts the batches, for their order
    metadata: Mapping[str, str] | None = None
    job_id: str | None = None  # None until its requests have been checked
    errors: list[dict[str, Any]] = field(default_factory=list)  # of a file that cannot be used
    times: Mapping[str, int] = field(default_factory=dict)  # `in_progress_at` and the like
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancelled: bool = False  # asked to be
    closed: bool = False  # its files are written

    @property
    def validating(self) -> bool:
        """Whether its file is still to be checked."""
        return self.job_id is None and not self.errors and not self.cancelled

    @property
    def unsettled(self) -> bool:
        """Whether its job is still to be made, found or cancelled."""
        return not self.closed and not self.errors and (self.job_id is None or self.cancelled)


class Shelf:
    """The folder. Safe to use from every thread.

    Raises:
        UsageError: another service uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._files, self._batches = folder / "files", folder / "batches"
        for item in (self._files, self._batches):
            item.mkdir(parents=True, exist_ok=True)
        self._taken = (folder / "lock").open("ab")
        if not try_lock(self._taken):
            self._taken.close()
            raise UsageError(
                f"another `endmark serve` uses `{folder}`",
                hint="end it, or give this one an `ENDMARK_HOME` of its own",
            )
        self.lock = threading.RLock()
        for left in self._files.glob("*.part"):
            left.unlink()

    def close(self) -> None:
        """Leave the folder to another service."""
        self._taken.close()

    def new_file(self) -> tuple[str, Path]:
        """Return the id of a file to be, and where to write it until `keep_file`."""
        file_id = f"file-{secrets.token_hex(12)}"
        return file_id, self._files / f"{file_id}.part"

    def keep_file(self, file_id: str, filename: str, purpose: str) -> FileRecord:
        """Take in a file that has been written."""
        part = self._files / f"{file_id}.part"
        record = FileRecord(file_id, part.stat().st_size, int(time.time()), filename, purpose)
        _replace(self._files / f"{file_id}.json", asdict(record))
        part.replace(self._files / f"{file_id}.jsonl")
        return record

    def file(self, file_id: str) -> FileRecord | None:
        """Return a file's record, or None."""
        path = self._files / f"{file_id}.json"
        if not _FILE_ID.fullmatch(file_id) or not self.content(file_id).is_file():
            return None
        return FileRecord(**json.loads(path.read_text(encoding="utf-8")))

    def content(self, file_id: str) -> Path:
        """Return where a file's content is."""
        return self._files / f"{file_id}.jsonl"

    def files(self) -> list[FileRecord]:
        """Return all files, the newest first."""
        found = [self.file(path.stem) for path in self._files.glob("*.json")]
        return sorted((item for item in found if item), key=lambda item: (item.created_at, item.id), reverse=True)

    def remove_file(self, file_id: str) -> None:
        """Delete a file."""
        self.content(file_id).unlink(missing_ok=True)
        (self._files / f"{file_id}.json").unlink(missing_ok=True)

    def new_batch(self, **values: Any) -> BatchRecord:  # noqa: ANN401
        """Record a batch."""
        with self.lock:
            number = 1 + max((item.number for item in self.batches()), default=0)
            batch = BatchRecord(
                f"batch_{secrets.token_hex(12)}", created_at=int(time.time()), number=number, **values
            )
            return self.save(batch)

    def save(self, batch: BatchRecord) -> BatchRecord:
        """Write a batch's record; return it."""
        _replace(self._batches / f"{batch.id}.json", asdict(batch))
        return batch

    def change(self, batch_id: str, **changes: Any) -> BatchRecord:  # noqa: ANN401
        """Change a batch's record; return it."""
        with self.lock:
            batch = self.batch(batch_id)
            assert batch is not None
            return self.save(replace(batch, **changes))

    def batch(self, batch_id: str) -> BatchRecord | None:
        """Return a batch's record, or None."""
        path = self._batches / f"{batch_id}.json"
        if not _BATCH_ID.fullmatch(batch_id) or not path.is_file():
            return None
        return BatchRecord(**json.loads(path.read_text(encoding="utf-8")))

    def batches(self) -> list[BatchRecord]:
        """Return all batches, the newest first."""
        found = [self.batch(path.stem) for path in self._batches.glob("*.json")]
        return sorted((item for item in found if item), key=lambda item: item.number, reverse=True)


def _replace(path: Path, values: Mapping[str, Any]) -> None:
    """Write a record in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(values), encoding="utf-8")
    fresh.replace(path)
