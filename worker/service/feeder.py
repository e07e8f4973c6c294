"""From a lease to the rows of its shard, ready for the engine."""

from collections.abc import Sequence

from endmark.db.connection import Store
from endmark.db.jobs import Job, load_job
from endmark.db.rows import unfinished_rows
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.vocabulary import Lease, StoredRow
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.rows import RowRun

_JOBS_KEPT = 32


class Feeder:
    """Reads rows and makes their prompts; keeps the jobs it has seen. Not thread-safe."""

    def __init__(self, store: Store, prompter: Prompter, weights: str | None = None) -> None:
        self._store = store
        self._weights = weights  # of the engine that runs the rows
        self._prompter = prompter
        self._jobs: dict[str, Job] = {}

    def rows(self, lease: Lease) -> list[RowRun]:
        """Return the rows of a shard that have no result yet, in order."""
        stored = unfinished_rows(self._store, lease)
        job = self._job(lease.key.job_id, {row.round for row in stored})
        runs: list[RowRun] = []
        for number in sorted({row.round for row in stored}):
            runs += self._prompted(job, number, [row for row in stored if row.round == number])
        return sorted(runs, key=lambda run: run.row.row)

    def _prompted(self, job: Job, number: int, stored: Sequence[StoredRow]) -> list[RowRun]:
        """Return rows of one round with their prompts."""
        spec = job.specs[number]
        prompts = self._prompter.read(PromptPlan(job.columns, spec), spec, [row.cells for row in stored])
        return [RowRun(row, prompt, self._weights) for row, prompt in zip(stored, prompts, strict=True)]

    def _job(self, job_id: str, rounds: set[int]) -> Job:
        """Return a job that knows these rounds; `endmark retry` adds one to a job already seen."""
        job = self._jobs.get(job_id)
        if job is None or not rounds <= set(job.specs):
            while len(self._jobs) >= _JOBS_KEPT:
                self._jobs.pop(next(iter(self._jobs)))
            job = self._jobs[job_id] = load_job(self._store, job_id)
        return job
