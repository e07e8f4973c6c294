"""How far the jobs are: sums over shards, never over rows."""

from typing import Any

from sqlalchemy import text

from db.connection import Store
from db.schema import COUNTERS
from db.workers import list_workers
from jobs.errors import JobNotFound
from jobs.spec import GenerationSpec
from jobs.vocabulary import JobState, JobStatus, WorkerInfo


def job_status(store: Store, job_id: str) -> JobStatus:
    """Return one job's progress.

    Raises:
        JobNotFound: there is none of that id.
    """
    found = _read(store, "j.id = :job AND j.state <> 'submitting'", job=job_id)
    if not found:
        raise JobNotFound(job_id)
    return found[0]


def all_statuses(store: Store) -> list[JobStatus]:
    """Return every job's progress, the newest first."""
    return _read(store, "j.state <> 'submitting'")


def _read(store: Store, condition: str, **values: object) -> list[JobStatus]:
    """Return the progress of the jobs that the condition picks."""
    sums = ", ".join(f"coalesce(sum(s.{name}), 0) AS {name}" for name in COUNTERS)
    statement = (
        f"SELECT j.id, j.name, j.state, j.model, j.adapter, j.total, j.started_at, j.finished_at, {sums},"
        " coalesce(sum(CASE WHEN s.state = 'running' THEN s.end_row - s.first_row - s.succeeded - s.failed"
        f" ELSE 0 END), 0) AS running, max(s.updated_at) AS updated_at, {store.now} AS now,"
        " (SELECT spec FROM specs p WHERE p.job_id = j.id ORDER BY p.round DESC LIMIT 1) AS spec"
        f" FROM jobs j LEFT JOIN shards s ON s.job_id = j.id WHERE {condition}"
        " GROUP BY j.id, j.name, j.state, j.model, j.adapter, j.total, j.started_at, j.finished_at, j.created_at"
        " ORDER BY j.created_at DESC"
    )
    with store.reader.connect() as connection:
        found = connection.execute(text(statement), values).all()
    workers = list_workers(store) if found else []
    return [_status(item, workers) for item in found]


def _status(item: Any, workers: list[WorkerInfo]) -> JobStatus:  # noqa: ANN401
    """Return one job's progress from its sums."""
    counts = {name: int(getattr(item, name)) for name in COUNTERS}
    state = JobState(item.state)
    finished = counts["succeeded"] + counts["failed"]
    cancelled = item.total - finished if state is JobState.CANCELLED else 0
    running = 0 if state.is_final else int(item.running)
    pending = item.total - finished - cancelled - running
    end = item.finished_at or item.now
    seconds = float(end - item.started_at) if item.started_at else 0.0
    eos = counts["eos_natural"] + counts["eos_boosted"] + counts["eos_forced"]
    reasons = {"eos": eos, **{name: counts[name] for name in ("stop_sequence", "repetition", "length")}}
    reasons |= {"error": counts["failed"], "cancelled": cancelled}
    left = pending + running
    return JobStatus(
        id=item.id,
        name=item.name,
        state=state,
        model=item.model,
        adapter=item.adapter,
        strategies=tuple(map(str, GenerationSpec.from_json(item.spec).strategies)),
        total=item.total,
        pending=pending,
        running=running,
        succeeded=counts["succeeded"],
        failed=counts["failed"],
        cancelled=cancelled,
        finish_reasons={name: count for name, count in reasons.items() if count},
        ended_with_eos=eos,
        truncated=counts["length"] + counts["repetition"],
        prompt_tokens=counts["prompt_tokens"],
        completion_tokens=counts["completion_tokens"],
        tokens_per_second=counts["completion_tokens"] / seconds if seconds > 0 else 0.0,
        eta_seconds=seconds / finished * left if finished and left and not state.is_final else None,
        workers=tuple(w for w in workers if (w.model, w.adapter) == (item.model, item.adapter)),
    )
