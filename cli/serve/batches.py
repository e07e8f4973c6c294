"""Batches as the API describes them: made, looked at, cancelled. What they come to is the keeper's work."""

from typing import Any

from endmark.cli.serve.keeper import Keeper
from endmark.cli.serve.outcome import request_counts
from endmark.db.progress import job_status
from endmark.db.served import Caller, Records
from endmark.db.served_batches import (
    VALIDATING,
    NewBatch,
    ServedBatch,
    add_batch,
    cancel_batch,
    find_batch,
    list_batches,
)
from endmark.jobs.errors import JobNotFound
from endmark.jobs.progress import JobStatus

_TIMES = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


class Batches:
    """The batches of one shelf, as its callers see them.

    Args:
        model: the name of the one that answers them.
    """

    def __init__(self, records: Records, keeper: Keeper, model: str) -> None:
        self._records = records
        self._keeper = keeper
        self._model = model

    def create(self, caller: Caller, wanted: NewBatch) -> dict[str, Any] | None:
        """Record a batch, to be checked in the background; None if the caller sees no such file."""
        batch = add_batch(self._records, caller, wanted)
        if batch is None:
            return None
        self._keeper.wake()
        return self._described(batch)

    def find(self, batch_id: str, caller: Caller) -> dict[str, Any] | None:
        """Return a batch that a caller may see, or None."""
        batch = find_batch(self._records, batch_id, caller)
        return None if batch is None else self._described(batch)

    def list(self, caller: Caller, *, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Return the batches that a caller may see, the newest first."""
        found = list_batches(self._records, caller, after=after, limit=limit)
        return [self._described(batch) for batch in found]

    def cancel(self, batch_id: str) -> bool:
        """Cancel a batch, what is done is kept; return whether it had neither ended nor been told to."""
        done = cancel_batch(self._records, batch_id)
        self._keeper.wake()
        return done

    def _described(self, batch: ServedBatch) -> dict[str, Any]:
        """Return a batch as the API describes it."""
        job = self._job(batch)
        counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
        if job is not None:
            counts = request_counts(batch, job)
            if job.state.is_final:
                self._keeper.wake()
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
            "input_file_id": batch.input_file_id,
            "completion_window": batch.completion_window,
            "status": _status(batch, job),
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": batch.created_at,
            "expires_at": batch.expires_at,
            "request_counts": counts,
            "metadata": batch.metadata,
            "model": self._model,
            **{name: batch.times.get(name) for name in _TIMES},
        }

    def _job(self, batch: ServedBatch) -> JobStatus | None:
        """Return the job of an open batch, if it is stored."""
        if batch.job_id is None or not batch.is_open:
            return None
        try:
            return job_status(self._records.store, batch.job_id)
        except JobNotFound:  # it is being stored
            return None


def _status(batch: ServedBatch, job: JobStatus | None) -> str:
    """Return the status as the API has it."""
    if not batch.is_open:
        return batch.state
    if batch.ending == "cancelled":
        return "cancelling"
    if batch.ending == "expired" or (job is not None and job.state.is_final):
        return "finalizing"
    return VALIDATING if batch.state == VALIDATING else "in_progress"
