"""How far the jobs are: sums over shards, never over rows."""

import time
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, text

from endmark.db.browsing import pattern_of
from endmark.db.connection import Store
from endmark.db.job_states import FINAL
from endmark.db.schema import COUNTERS
from endmark.db.transactions import reading
from endmark.db.workers import ALIVE_SECONDS, list_workers, workers_for
from endmark.jobs.errors import JobNotFound, SpecError
from endmark.jobs.progress import JobStatus, WorkerInfo
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import ENDS, FinishReason, JobState

__all__ = ["all_statuses", "job_status", "listed_statuses", "workers_for"]
_COUNTED = [(end.reason, end.counter) for end in ENDS]
SILENT_SECONDS = 30.0  # without a report of a worker that makes one every 3


def job_status(store: Store, job_id: str) -> JobStatus:
    """Return one job's progress.

    Raises:
        JobNotFound: there is none of that id.
        StoreError: the database cannot be used.
    """
    found = _read(store, "j.id = :job AND j.state <> 'submitting'", job=job_id)
    if not found:
        raise JobNotFound(job_id)
    return found[0]


def all_statuses(store: Store) -> list[JobStatus]:
    """Return every job's progress, the newest first.

    Raises:
        StoreError: the database cannot be used.
    """
    return _read(store, "j.state <> 'submitting'")


def listed_statuses(
    store: Store, *, words: str = "", among: Collection[str] | None = None, first: int = 0, most: int
) -> tuple[list[JobStatus], int]:
    """Return some jobs' progress, first those that have not ended, then the newest; and how many jobs there are.

    Args:
        words: stand in a job's name, or its id begins with them; ASCII letters in either case.
        among: the ids of the jobs that are looked at; all by default.
        first: how many are passed over.
        most: how many are returned at most.

    Raises:
        StoreError: the database cannot be used.
    """
    statement = (
        "SELECT id FROM jobs WHERE state <> 'submitting'"
        f" AND (name {store.like} :words ESCAPE '!' OR id {store.like} :id ESCAPE '!')"
        f" ORDER BY CASE WHEN state IN ({FINAL}) THEN 1 ELSE 0 END, created_at DESC, id"
    )
    pattern = pattern_of(words)
    with reading(store) as connection:
        ids = (
            connection.execute(text(statement), {"words": pattern, "id": pattern.removeprefix("%")})
            .scalars()
            .all()
        )
    ids = [item for item in ids if among is None or item in among]
    shown = ids[first : first + most]
    if not shown:
        return [], len(ids)
    names = {f"job{place}": item for place, item in enumerate(shown)}
    found = {item.id: item for item in _read(store, f"j.id IN (:{', :'.join(names)})", **names)}
    return [found[item] for item in shown if item in found], len(ids)


def clock_ahead(store: Store) -> float:
    """Return the seconds by which the database's clock is ahead of this host's, within the time of one question.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        connection.execute(text("SELECT 1"))  # so that the time of connecting does not count
        before = time.time()
        theirs = float(connection.execute(text(f"SELECT {store.now}")).scalar_one())
        return theirs - (before + time.time()) / 2


def _read(store: Store, condition: str, **values: object) -> list[JobStatus]:
    """Return the progress of the jobs that the condition picks."""
    sums = ", ".join(f"coalesce(sum(s.{name}), 0) AS {name}" for name in COUNTERS)
    without = "s.end_row - s.first_row - s.succeeded - s.failed"
    statement = (
        f"SELECT j.id, j.name, j.state, j.model, j.adapter, j.total, j.started_at, j.finished_at,"
        f" j.created_at, j.error, j.device_seconds, {sums},"
        f" coalesce(sum(CASE WHEN s.state = 'running' THEN {without} ELSE 0 END), 0) AS running,"
        f" coalesce(sum(CASE WHEN s.state = 'done' THEN {without} ELSE 0 END), 0) AS cancelled,"
        f" coalesce(max(s.updated_at), {store.now}) AS updated_at,"
        " (SELECT spec FROM specs p WHERE p.job_id = j.id ORDER BY p.round DESC LIMIT 1) AS spec"
        f" FROM jobs j LEFT JOIN shards s ON s.job_id = j.id WHERE {condition}"
        " GROUP BY j.id, j.name, j.state, j.model, j.adapter, j.total, j.started_at, j.finished_at, j.created_at,"
        " j.error, j.device_seconds"
        " ORDER BY j.created_at DESC, j.id"
    )
    with reading(store) as connection:
        found = connection.execute(text(statement), values).all()
        shares = _shares(connection) if found else {}
    workers = list_workers(store) if found else []
    by_name = {item.worker: item for item in workers}
    serving: dict[tuple[str, str | None], list[WorkerInfo]] = {}
    for worker in workers:
        serving.setdefault((worker.model, worker.adapter), []).append(worker)
    return [
        _status(item, serving.get((item.model, item.adapter), ()), by_name, shares.get(item.id, {}))
        for item in found
    ]


def _shares(connection: Connection) -> dict[str, dict[str, float]]:
    """Return which share of a worker's running shards is of a job, by job and worker."""
    found = connection.execute(
        text(
            "SELECT worker, job_id, count(*) AS shards FROM shards"
            " WHERE state = 'running' AND worker IS NOT NULL GROUP BY worker, job_id"
        )
    ).all()
    held: dict[str, int] = {}
    for item in found:
        held[item.worker] = held.get(item.worker, 0) + item.shards
    shares: dict[str, dict[str, float]] = {}
    for item in found:
        shares.setdefault(item.job_id, {})[item.worker] = item.shards / held[item.worker]
    return shares


def _status(
    item: Any,  # noqa: ANN401 - a row of sums
    serving: Sequence[WorkerInfo],
    by_name: Mapping[str, WorkerInfo],
    shares: Mapping[str, float],
) -> JobStatus:
    """Return one job's progress from its sums.

    Args:
        serving: the workers of its model.
        by_name: all workers.
        shares: which share of their shards the workers that hold some of the job's have of it.
    """
    counts = {name: int(getattr(item, name)) for name in COUNTERS}
    state = JobState(item.state)
    finished = counts["succeeded"] + counts["failed"]
    cancelled, running = int(item.cancelled), int(item.running)
    left = item.total - finished - cancelled
    reasons = dict.fromkeys(FinishReason, 0)
    for reason, counter in _COUNTED:
        reasons[reason] += counts[counter] if counter else cancelled
    reported = sum(by_name[name].tokens_per_second * share for name, share in shares.items() if name in by_name)
    speed = _speed(item, state, counts["completion_tokens"], reported)
    tokens_left = counts["completion_tokens"] / finished * left if finished else 0.0
    return JobStatus(
        id=item.id,
        name=item.name,
        state=state,
        model=item.model,
        adapter=item.adapter,
        strategies=_strategies(item.spec),
        total=item.total,
        pending=left - running,
        running=running,
        succeeded=counts["succeeded"],
        failed=counts["failed"],
        cancelled=cancelled,
        finish_reasons={reason.value: count for reason, count in reasons.items() if count},
        ended_with_eos=reasons[FinishReason.EOS],
        truncated=sum(count for reason, count in reasons.items() if reason.truncated),
        complete=counts["complete"],
        shaped=counts["shaped"],
        valid=counts["valid"],
        prompt_tokens=counts["prompt_tokens"],
        completion_tokens=counts["completion_tokens"],
        tokens_per_second=speed,
        eta_seconds=tokens_left / speed if state is JobState.RUNNING and tokens_left and speed else None,
        workers=tuple(serving),
        error=item.error,
        device_seconds=float(item.device_seconds),
        ended_in_reasoning=counts["in_reasoning"],
        reasoning_tokens=counts["reasoning_tokens"],
        deduplicated=counts["deduplicated"],
        cached_tokens=counts["cached_tokens"],
        silent_seconds=_silence(shares, by_name),
        created_at=float(item.created_at),
        finished_at=float(item.finished_at) if state.is_final and item.finished_at is not None else None,
    )


@lru_cache(maxsize=256)  # jobs often have the specs of others, and to read one takes a fifth of a millisecond
def _strategies(spec: str) -> tuple[str, ...]:
    """Return the strategies of a stored spec; none where another version of the program has written it."""
    try:
        return tuple(map(str, GenerationSpec.from_json(spec).strategies))
    except SpecError:
        return ()


def _silence(holders: Collection[str], by_name: Mapping[str, WorkerInfo]) -> float | None:
    """Return how long the workers that hold a job's shards have been silent; None if one of them is not."""
    ages = (by_name[name].heartbeat_age if name in by_name else ALIVE_SECONDS for name in holders)
    silence = min(ages, default=0.0)
    return silence if silence > SILENT_SECONDS else None


def _speed(item: Any, state: JobState, tokens: int, reported: float) -> float:  # noqa: ANN401
    """Return tokens a second: what the workers report while a job runs, on average over it when it has ended."""
    if state is JobState.RUNNING and reported:
        return reported
    if item.started_at is None or not (state.is_final or state is JobState.RUNNING):
        return 0.0
    seconds = float((item.finished_at if state.is_final else item.updated_at) - item.started_at)
    return tokens / seconds if seconds > 0 else 0.0
