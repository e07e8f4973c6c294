"""What goes on behind the requests: files checked and stored as jobs, windows that end, results written.

Whatever is done here can be done again: a service that is started anew goes on where the one before was killed.
"""

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from endmark.cli.serve.intake import Abandoned, Terms, Unusable, problem, store_batch
from endmark.cli.serve.outcome import close_with_files
from endmark.cli.serve.shelf import Shelf
from endmark.cli.terminal import note
from endmark.db.jobs import cancel_job, count_prompts, discard_submission
from endmark.db.progress import job_status
from endmark.db.served import Records
from endmark.db.served_batches import (
    VALIDATING,
    Outcome,
    ServedBatch,
    begin_batch,
    close_batch,
    due_batches,
    expire_batches,
    find_batch,
    note_job,
)
from endmark.db.served_files import delete_file, expired_files
from endmark.db.submission import new_job_id
from endmark.jobs.errors import JobNotFound, JobStateError, StoreError, UsageError
from endmark.jobs.progress import JobStatus

Wake = Callable[[str, str | None], None]
_AT_ONCE = 2  # batches checked or closed at the same time


class Keeper:
    """The work on the batches and files of one shelf, in threads of its own.

    Args:
        wake: wakes the workers of a model and adapter.
        look: seconds between two looks at the open batches.
    """

    def __init__(self, records: Records, shelf: Shelf, terms: Terms, wake: Wake, *, look: float = 2.0) -> None:
        self._records = records
        self._shelf = shelf
        self._terms = terms
        self._wake = wake
        self._look = look
        self._ending = threading.Event()
        self._woken = threading.Event()
        self._busy: set[str] = set()  # ids of batches that are worked on
        self._told: set[str] = set()  # what has been said of trouble that lasts
        self._pool = ThreadPoolExecutor(_AT_ONCE, "batch")
        self._thread = threading.Thread(target=self._run, name="batches")
        self._thread.start()

    def wake(self) -> None:
        """Look at the open batches now."""
        self._woken.set()

    def close(self) -> None:
        """End the work; what is interrupted starts again with the next service."""
        self._ending.set()
        self._woken.set()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        """Look at the open batches now and then."""
        while not self._ending.is_set():
            self._woken.clear()
            try:
                self._survey()
                self._told.discard("")
            except (StoreError, OSError) as error:
                self._tell("", f"batches wait: {error}")
            self._woken.wait(self._look)

    def _survey(self) -> None:
        """Begin the work on the batches that need some, and delete the files whose time is over."""
        expire_batches(self._records)
        for batch_id in due_batches(self._records):
            if batch_id not in self._busy:
                self._busy.add(batch_id)
                self._pool.submit(self._work, batch_id)
        for file_id in expired_files(self._records):
            remove_file(self._records, self._shelf, file_id)

    def _work(self, batch_id: str) -> None:
        """Do what a batch needs; what does not succeed for the moment is tried again later."""
        try:
            batch = find_batch(self._records, batch_id)
            if batch is not None and batch.is_open:
                self._advance(batch)
            self._told.discard(batch_id)
        except (StoreError, OSError, UsageError) as error:
            self._tell(batch_id, f"batch {batch_id} waits: {error}")
        except Exception:
            self._give_up(batch_id, traceback.format_exc())
        finally:
            self._busy.discard(batch_id)

    def _advance(self, batch: ServedBatch) -> None:
        """Store a batch's job, or end it, or close the batch."""
        job = self._job(batch)
        if job is None and batch.state == VALIDATING and batch.ending is None:
            self._store(batch)
            return
        if job is None:  # it was told to end before its job was stored, or its job was deleted
            lost = [problem("its job is no longer there", "job_not_found")]
            outcome = Outcome(batch.ending) if batch.ending is not None else Outcome("failed", lost)
            close_batch(self._records, batch.id, outcome)
            return
        if batch.state == VALIDATING:
            batch = self._begun(batch, job.id)
        if batch.ending is not None and not job.state.is_final:
            with suppress(JobStateError):  # it has ended meanwhile
                cancel_job(self._records.store, job.id)
            job = job_status(self._records.store, job.id)
        if job.state.is_final:
            close_with_files(self._records, self._shelf, batch, job)

    def _job(self, batch: ServedBatch) -> JobStatus | None:
        """Return a batch's job, or None if none is stored; a half-stored one is deleted."""
        if batch.job_id is None:
            return None
        try:
            return job_status(self._records.store, batch.job_id)
        except JobNotFound:
            discard_submission(self._records.store, batch.job_id)
            return None

    def _store(self, batch: ServedBatch) -> None:
        """Check a batch's file and store its requests as a job, or say what is wrong."""
        job_id = new_job_id()
        note_job(self._records, batch.id, job_id)
        try:
            job = store_batch(
                self._records.store,
                self._shelf.content(batch.input_file_id),
                batch,
                job_id,
                self._terms,
                ended=lambda: self._is_to_end(batch.id),
            )
        except Unusable as error:
            close_batch(self._records, batch.id, Outcome("failed", error.errors))
        except Abandoned:
            self._woken.set()
        else:
            self._begun(batch, job_id)
            self._wake(*job.spec.queue)

    def _begun(self, batch: ServedBatch, job_id: str) -> ServedBatch:
        """Note that a batch's job is stored; return the batch with its number of requests."""
        total = count_prompts(self._records.store, job_id)
        begin_batch(self._records, batch.id, total)
        return replace(batch, total=total)

    def _is_to_end(self, batch_id: str) -> bool:
        """Whether a check is to be stopped."""
        batch = find_batch(self._records, batch_id)
        return self._ending.is_set() or batch is None or batch.ending is not None

    def _give_up(self, batch_id: str, trace: str) -> None:
        """Fail a batch with which something happened that nobody has foreseen."""
        note(f"batch {batch_id} fails: {trace}")
        errors = [problem("the service has failed on this batch", "internal_error")]
        with suppress(StoreError):  # else the next look fails it
            close_batch(self._records, batch_id, Outcome("failed", errors))

    def _tell(self, what: str, text: str) -> None:
        """Say once what is in the way, for as long as it is."""
        if what not in self._told:
            self._told.add(what)
            note(text)


def remove_file(records: Records, shelf: Shelf, file_id: str) -> bool:
    """Delete a file with its content, unless a batch is being made of it; return whether it is deleted.

    Raises:
        StoreError: the database cannot be used.
    """
    shelf.mark(file_id)
    if not delete_file(records, file_id, None):
        shelf.keep(file_id)
        return False
    shelf.remove(file_id)
    return True
