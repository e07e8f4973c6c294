"""From a job that has ended to the files of its batch."""

import time
from collections.abc import Sequence
from pathlib import Path

from endmark.cli.serve.intake import problem
from endmark.cli.serve.shelf import Shelf
from endmark.db.export import export_job
from endmark.db.export.as_openai import ERRORS
from endmark.db.served import Records
from endmark.db.served_batches import Final, Outcome, ServedBatch, close_batch
from endmark.db.served_files import NewFile, find_file
from endmark.jobs.progress import JobStatus
from endmark.jobs.vocabulary import JobState

_UNANSWERED = {  # as OpenAI's service says it, where it does
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was executed."),
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "failed": ("batch_failed", "The batch failed before this request was executed."),
}


def close_with_files(records: Records, shelf: Shelf, batch: ServedBatch, job: JobStatus) -> None:
    """Write the files of a batch whose job has ended, and close it.

    Raises:
        StoreError: the database cannot be used.
        UsageError: a file cannot be written, for the disk is full perhaps.
    """
    state = final_state(batch, job)
    begun = int(time.time())
    ids = (shelf.begin(), shelf.begin())
    try:
        output, error = _written(records, shelf, batch, job.id, state, ids)
    except BaseException:
        for file_id in ids:
            shelf.remove(file_id)
        raise
    errors = [problem("the job could not be run; the service's operator can see why", "job_failed")]
    counts = request_counts(batch, job)
    if counts["total"] < job.total:  # of requests with several answers the files have a line each
        counts["completed"] = _lines(shelf.content(ids[0]))
        counts["failed"] = min(counts["failed"], counts["total"] - counts["completed"])
    closed = errors if state == "failed" else ()
    outcome = Outcome(state, closed, output=output, error=error, finalizing_at=begun, **counts)
    close_batch(records, batch.id, outcome)  # if it raises, the marks stay: the records may be there
    settle_marks(records, shelf, ids)


def request_counts(batch: ServedBatch, job: JobStatus) -> dict[str, int]:
    """Return how many requests a batch has, how many are completed and how many failed, as the API calls them.

    Of requests with several answers it is known how many answers there are: the share of them is told.
    """
    total = batch.total or job.total
    completed, failed = (count * total // max(1, job.total) for count in (job.succeeded, job.failed))
    return {"total": total, "completed": completed, "failed": failed}


def settle_marks(records: Records, shelf: Shelf, file_ids: Sequence[str]) -> None:
    """Keep the marked files that have a record, and delete the others.

    Raises:
        StoreError: the database cannot be used.
    """
    for file_id in file_ids:
        if find_file(records, file_id) is not None:
            shelf.keep(file_id)
        else:
            shelf.remove(file_id)


def final_state(batch: ServedBatch, job: JobStatus) -> Final:
    """Return how a batch has ended whose job has."""
    if job.state is JobState.FAILED:
        return "failed"
    if job.state is JobState.CANCELLED:
        return batch.ending or "cancelled"
    return "completed"


def _lines(path: Path) -> int:
    """Return the lines of a file."""
    with path.open("rb") as handle:
        return sum(1 for _ in handle)


def _written(
    records: Records, shelf: Shelf, batch: ServedBatch, job_id: str, state: Final, ids: tuple[str, str]
) -> list[NewFile | None]:
    """Write the answers and the errors; return both as they are to be taken in, None for an empty one."""
    target = shelf.content(ids[0])
    export_job(records.store, job_id, target, format="openai", unanswered=_UNANSWERED.get(state))
    target.with_suffix(f".{ERRORS}").replace(shelf.content(ids[1]))
    made = []
    for file_id, kind in zip(ids, ("output", "error"), strict=True):
        size = shelf.content(file_id).stat().st_size
        name = f"{batch.id}_{kind}.jsonl"
        file = NewFile(file_id, batch.owner, name, "batch_output", size, batch.output_seconds)
        made.append(file if size else None)
    return made
