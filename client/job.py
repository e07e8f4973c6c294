"""A job as a Python program holds it: its progress, its results, and what may be done to it."""

import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endmark.cli.notifying import wake_if_reachable
from endmark.cli.progress import describe, what_it_does
from endmark.cli.session import opened
from endmark.db.export import Only, export_job
from endmark.db.export.stream import COLUMNS, result_columns, stream_results
from endmark.db.jobs import cancel_job, delete_job, load_job, pause_job, resolve_job, resume_job
from endmark.db.progress import job_status
from endmark.jobs.progress import JobStatus

if TYPE_CHECKING:
    import pandas
    import polars


class Job:
    """A stored job. Nothing is kept open between calls, so a job may be held as long as one likes."""

    def __init__(self, job_id: str) -> None:
        """Find a job.

        Args:
            job_id: its id, the beginning of one, or `latest`.

        Raises:
            JobNotFound: there is none.
        """
        with opened() as (_, store):
            self.id = resolve_job(store, job_id)

    @classmethod
    def known(cls, job_id: str) -> "Job":
        """Return the job of a whole id that has just been read, without looking for it again."""
        job = cls.__new__(cls)
        job.id = job_id
        return job

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows of it: its name, and how far it is."""
        status = self.status()
        told = escape(f"{what_it_does(status)}: {describe(status)}")
        return f"<p><b>{escape(status.name)}</b> <code>{self.id}</code> {told}</p>"

    def status(self) -> JobStatus:
        """Return how far the job is."""
        with opened() as (_, store):
            return job_status(store, self.id)

    def wait(self, timeout: float | None = None, *, every: float = 1.0) -> JobStatus:
        """Wait for workers that run elsewhere to end the job; return how it stands then.

        Args:
            timeout: seconds.
            every: seconds between two looks.

        Raises:
            TimeoutError: it has not ended within `timeout`.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with opened() as (_, store):
            while not (status := job_status(store, self.id)).state.is_final:
                left = every if until is None else min(every, until - time.monotonic())
                if left <= 0:
                    raise TimeoutError(
                        f"job {self.id} is {status.state}: {status.finished} of {status.total} rows"
                    )
                time.sleep(left)
        return status

    def run(self, **engine: Any) -> "Job":  # noqa: ANN401
        """Run the rows that have no result yet, with a worker started here if none is there; return the job.

        Args:
            engine: of that worker, such as `engine="vllm"` and `tensor_parallel=2`.

        Raises:
            TypeError: there is no such option.
            MissingDependency: the engine is not installed.
            Interrupted: by Ctrl-C; the job is paused, and `run` goes on with it.
            EndmarkError: it cannot be run; the message says why.
        """
        from endmark.client.running import run_job

        run_job(self.id, engine)
        return self

    def results(self, only: Only | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows in input order: `row`, the input's columns, then the answer and its verdict.

        A row whose job keeps log probabilities has them as `logprobs`, a list with an object for each token.

        Args:
            only: `truncated`, `failed` or `complete`; by default all rows. A row without a result has None.
        """
        with opened() as (_, store):
            columns = result_columns(load_job(store, self.id).columns)
            for result in stream_results(store, self.id, only=only, logprobs=True):
                yield result.as_dict(columns)

    def to_pandas(self, only: Only | None = None) -> "pandas.DataFrame":
        """Return the results as a data frame of pandas."""
        import pandas

        rows = list(self.results(only))
        return pandas.DataFrame.from_records(rows, columns=self._names() if not rows else None)

    def to_polars(self, only: Only | None = None) -> "polars.DataFrame":
        """Return the results as a data frame of polars."""
        import polars

        rows = list(self.results(only))
        return polars.DataFrame(rows, schema=self._names() if not rows else None, infer_schema_length=None)

    def export(self, path: str | Path, only: Only | None = None, *, parse: bool = False) -> int:
        """Write the results to a file in the format that its name says; return the rows.

        Args:
            path: the file.
            only: as `results` has it.
            parse: give the fields of JSON answers columns of their own.
        """
        with opened() as (_, store):
            return export_job(store, self.id, Path(path), only=only, parse=parse)

    def cancel(self) -> None:
        """End the job; rows that have a result keep it.

        Raises:
            JobStateError: it has ended.
        """
        with opened() as (_, store):
            cancel_job(store, self.id)

    def pause(self) -> None:
        """Stop the job, to be resumed.

        Raises:
            JobStateError: it has ended, or is paused.
        """
        with opened() as (_, store):
            pause_job(store, self.id)

    def resume(self) -> None:
        """Let the job go on; workers that run take it up, and `run` works on it here.

        Raises:
            JobStateError: it has ended.
        """
        with opened() as (settings, store):
            resume_job(store, self.id)
            wake_if_reachable(settings, store, *load_job(store, self.id).spec.queue)

    def delete(self) -> None:
        """Delete the job with its rows and results; it cannot be undone.

        Raises:
            JobStateError: it has not ended.
        """
        with opened() as (_, store):
            delete_job(store, self.id)

    def _names(self) -> list[str]:
        """Return the names of a result's values, in order."""
        with opened() as (_, store):
            return ["row", *result_columns(load_job(store, self.id).columns), *COLUMNS]
