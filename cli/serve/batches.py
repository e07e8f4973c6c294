"""Batches: a file of requests checked and stored as a job, looked at while it runs, its files written last.

The job bears its batch's id as its name: where the record of a batch does not say which job is its own, as when
the service was killed between the two, the ledger does.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from endmark.cli.serve.shelf import BatchRecord, Shelf
from endmark.cli.submission import store_job
from endmark.cli.terminal import note
from endmark.db.connection import Store
from endmark.db.export import export_job
from endmark.db.export.as_openai import ERRORS
from endmark.db.jobs import cancel_job, find_job
from endmark.db.progress import job_status
from endmark.jobs.datasets import Dataset, checked_rows, settle
from endmark.jobs.datasets.base import Source
from endmark.jobs.datasets.openai import COMPLETION, OpenAIDataset
from endmark.jobs.errors import DatasetError, EndmarkError, JobStateError, Problem, StoreError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState, JobStatus, ShardKey

Ring = Callable[[GenerationSpec, Sequence[ShardKey]], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the service runs, and how much of it at once."""

    spec: GenerationSpec  # of every request that does not say otherwise
    max_requests: int


class Batches:
    """The batches of one shelf.

    Args:
        ring: sends messages for a stored job.
        again: seconds until a check is tried again that the ledger or the disk did not let through.
    """

    def __init__(self, store: Store, shelf: Shelf, terms: Terms, ring: Ring, *, again: float = 5.0) -> None:
        self._store = store
        self._shelf = shelf
        self._terms = terms
        self._ring = ring
        self._again = again
        self._ending = threading.Event()
        self._checking = ThreadPoolExecutor(1, "check")
        for batch in shelf.batches():  # of a service that was ended before it had seen to them
            if batch.unsettled:
                self._checking.submit(self._check, batch.id)

    def create(self, **values: Any) -> dict[str, Any]:  # noqa: ANN401
        """Record a batch and check its file in the background; return it as the API describes it."""
        batch = self._shelf.new_batch(**values)
        self._checking.submit(self._check, batch.id)
        return self.describe(batch)

    def cancel(self, batch: BatchRecord) -> dict[str, Any]:
        """Cancel a batch; what is done is kept."""
        with self._shelf.lock:
            batch = self._shelf.change(batch.id, cancelled=True, times=_at(batch, "cancelling_at"))
        if batch.job_id is not None:
            with suppress(JobStateError):  # it has ended meanwhile
                cancel_job(self._store, batch.job_id)
        return {**self.describe(batch), "status": "cancelling"}

    def describe(self, batch: BatchRecord) -> dict[str, Any]:
        """Return a batch as the API describes it; its files are written when its job is found to have ended."""
        job = job_status(self._store, batch.job_id) if batch.job_id is not None else None
        status = _status(batch, job)
        if job is not None and job.state.is_final and not batch.closed:
            batch = self._close(batch, status)
        counts = {"total": 0, "completed": 0, "failed": 0}
        if job is not None:
            counts = {"total": job.total, "completed": job.succeeded, "failed": job.failed}
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
            "input_file_id": batch.input_file_id,
            "completion_window": batch.completion_window,
            "status": status,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": batch.created_at,
            "request_counts": counts,
            "metadata": batch.metadata,
            "model": self._terms.spec.model,
            **batch.times,
        }

    def close(self) -> None:
        """End the checks; those that are broken off begin anew with the next service."""
        self._ending.set()
        self._checking.shutdown(wait=True, cancel_futures=True)

    def _check(self, batch_id: str) -> None:
        """See a batch through its check; as long as the ledger is away, or the disk is full, try again."""
        told = False
        while not self._ending.is_set():
            try:
                self._settle(batch_id)
                return
            except (StoreError, OSError) as error:
                if not told:
                    note(f"batch {batch_id} waits: {error}")
                told = True
            self._ending.wait(self._again)

    def _settle(self, batch_id: str) -> None:
        """Check a batch's file and store its requests as a job, or say what is wrong; may be done again."""
        batch = self._shelf.batch(batch_id)
        assert batch is not None
        job_id, rung = batch.job_id or find_job(self._store, batch_id), None
        if job_id is None and not batch.cancelled:
            try:
                job_id, rung = self._stored(batch)
            except StoreError:
                raise
            except DatasetError as error:
                self._refuse(batch, [_error(problem) for problem in error.problems])
            except (EndmarkError, OSError) as error:
                refusal = {"code": "invalid_request", "message": str(error), "line": None, "param": None}
                self._refuse(batch, [refusal])
        if job_id is None:
            return
        with self._shelf.lock:
            batch = self._shelf.change(batch_id, job_id=job_id, times=_at(batch, "in_progress_at"))
        if batch.cancelled:  # while it was checked
            self.cancel(batch)
        elif rung is not None:
            self._ring(*rung)

    def _stored(self, batch: BatchRecord) -> tuple[str, tuple[GenerationSpec, list[ShardKey]]]:
        """Store a batch's requests as a job, whole or not at all; return its id, and what is to be rung for."""
        path = self._shelf.content(batch.input_file_id)
        spec = replace(self._terms.spec, raw=batch.endpoint == COMPLETION)
        with _Requests(path, batch.endpoint, spec.model) as dataset:
            spec = settle(spec, dataset, skip_bad_rows=False)
            batches = self._limited(dataset, checked_rows(dataset, spec))
            job = store_job(self._store, batches, spec, columns=lambda: dataset.columns, name=batch.id)
        return job.job_id, (spec, job.keys)

    def _limited(self, dataset: Dataset, batches: Any) -> Any:  # noqa: ANN401 - an iterator of lists of rows
        """Pass rows on, up to the most that are taken."""
        seen = 0
        for rows in batches:
            seen += len(rows)
            if seen > self._terms.max_requests:
                raise dataset.unusable(0, f"has more than {self._terms.max_requests:,} requests")
            yield rows

    def _refuse(self, batch: BatchRecord, errors: list[dict[str, Any]]) -> None:
        """Note that a batch has failed."""
        self._shelf.change(batch.id, errors=errors, times=_at(batch, "failed_at"))

    def _close(self, batch: BatchRecord, status: str) -> BatchRecord:
        """Write the files of a batch whose job has ended."""
        with self._shelf.lock:
            found = self._shelf.batch(batch.id)
            assert found is not None
            if found.closed or found.job_id is None:
                return found
            file_id, part = self._shelf.new_file()
            target = part.with_suffix(".export")
            errors = target.with_suffix(f".{ERRORS}")
            export_job(self._store, found.job_id, target, format="openai")
            output_id = self._kept(target, file_id, f"{found.id}_output.jsonl")
            error_id = None
            if errors.is_file():
                error_id = self._kept(errors, self._shelf.new_file()[0], f"{found.id}_error.jsonl")
            times = {**_at(found, "finalizing_at"), **_at(found, f"{status}_at")}
            return self._shelf.change(
                found.id, closed=True, output_file_id=output_id, error_file_id=error_id, times=times
            )

    def _kept(self, path: Path, file_id: str, name: str) -> str | None:
        """Put a written file on the shelf; None if it is empty."""
        if not path.stat().st_size:
            path.unlink()
            return None
        path.replace(path.with_name(f"{file_id}.part"))
        return self._shelf.keep_file(file_id, name, "batch_output").id


class _Requests(OpenAIDataset):
    """The requests of a batch, all to one endpoint and one model."""

    def __init__(self, path: Path, endpoint: str, model: str) -> None:
        self._endpoint, self._model = endpoint, model
        super().__init__(Source("the file", path.open("rb")))

    def shape(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a request's columns."""
        values = super().shape(record)
        if values["url"] != self._endpoint:
            raise ValueError(f"`url` is `{values['url']}`, the batch's endpoint `{self._endpoint}`")
        if values["model"] != self._model:
            raise ValueError(f"`body.model` is not `{self._model}`, the model that is served")
        return values


def _status(batch: BatchRecord, job: JobStatus | None) -> str:
    """Return the status as the API has it."""
    if job is None:
        return "failed" if batch.errors else "cancelled" if batch.cancelled else "validating"
    if job.state is JobState.CANCELLED:
        return "cancelled"
    if job.state is JobState.FAILED:
        return "failed"
    return "completed" if job.state.is_final else "in_progress"


def _at(batch: BatchRecord, name: str) -> dict[str, int]:
    """Return the batch's times with one more, now."""
    return {**batch.times, name: int(time.time())}


def _error(problem: Problem) -> dict[str, Any]:
    """Return a problem as the API describes it."""
    return {"code": "invalid_request", "message": problem.reason, "line": problem.line or None, "param": None}
