"""Jobs: looked up, cancelled, paused, resumed. Storing one is in `submission`, asking rows again in `retry`."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.deletion import delete_job, discard_submission
from endmark.db.job_states import HELD, lock_job, named, row_lock, set_state
from endmark.db.retry import restore_answers, retry_rows
from endmark.db.submission import add_rows, begin_job, finish_submission
from endmark.db.transactions import reading, write
from endmark.jobs.errors import JobNotFound, JobStateError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState, Lease

__all__ = [
    "Job",
    "add_rows",
    "begin_job",
    "cancel_job",
    "count_prompts",
    "delete_job",
    "discard_submission",
    "fail_job",
    "finish_submission",
    "load_job",
    "pause_job",
    "resolve_job",
    "resume_job",
    "retry_rows",
]
_UNDER_WAY = (JobState.QUEUED, JobState.RUNNING)
_UNHARMED = "state = 'queued', attempts = attempts - 1"  # claims that do not count as deaths


@dataclass(frozen=True, slots=True)
class Job:
    """A job as stored."""

    id: str
    name: str
    state: JobState
    priority: int
    columns: tuple[str, ...]  # of its rows' cells
    total: int  # rows
    specs: Mapping[int, GenerationSpec]  # by round

    @property
    def spec(self) -> GenerationSpec:
        """The newest round's spec."""
        return self.specs[max(self.specs)]


def resolve_job(store: Store, wanted: str) -> str:
    """Return the id of the job that an id, an unambiguous beginning of one, or `latest` names.

    Raises:
        JobNotFound: there is no such job, or more than one.
    """
    condition = "" if wanted == "latest" else " AND substr(id, 1, :length) = :wanted"
    with reading(store) as connection:
        found = connection.execute(
            text(
                f"SELECT id FROM jobs WHERE state <> 'submitting'{condition} ORDER BY created_at DESC, id LIMIT 2"
            ),
            {"wanted": wanted, "length": len(wanted)},
        )
        ids: list[str] = list(found.scalars())
    if wanted == "latest" and ids:
        return ids[0]
    if len(ids) != 1 or not wanted:
        raise JobNotFound(wanted)
    return ids[0]


def load_job(store: Store, job_id: str) -> Job:
    """Return a job.

    Raises:
        JobNotFound: there is none of that id.
    """
    with reading(store) as connection:
        found = connection.execute(
            text(
                "SELECT name, state, priority, columns, total FROM jobs WHERE id = :job AND state <> 'submitting'"
            ),
            {"job": job_id},
        ).one_or_none()
        if found is None:
            raise JobNotFound(job_id)
        specs = connection.execute(
            text("SELECT round, spec FROM specs WHERE job_id = :job ORDER BY round"), {"job": job_id}
        ).all()
    return Job(
        id=job_id,
        name=found.name,
        state=JobState(found.state),
        priority=found.priority,
        columns=tuple(json.loads(found.columns)),
        total=found.total,
        specs={item.round: GenerationSpec.from_json(item.spec) for item in specs},
    )


def count_prompts(store: Store, job_id: str) -> int:
    """Return how many prompts a job's rows are answers of. All its rows are read.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text("SELECT count(*) FROM rows WHERE job_id = :job AND coalesce(sample, 0) = 0"), {"job": job_id}
        )
        return int(found.scalar_one())


def cancel_job(store: Store, job_id: str) -> None:
    """End a job; the rows that have a result keep it.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it has ended already.
    """

    def work(connection: Connection) -> None:
        _expect(store, connection, job_id, (*_UNDER_WAY, JobState.PAUSED), "cancelled")
        set_state(store, connection, job_id, JobState.CANCELLED)
        _take_back(store, connection, job_id, "<> 'done'", "state = 'done'")
        restore_answers(connection, job_id)

    write(store, work, repeatable=False)


def fail_job(store: Store, lease: Lease, reason: str) -> None:
    """End a job that cannot be run at all; its rows without a result wait for `endmark retry`.

    Under a lease that is good no longer nothing is done: another worker may run the job.

    Raises:
        StoreError: the database cannot be used.
    """
    key = lease.key

    def work(connection: Connection) -> None:
        state = lock_job(store, connection, key.job_id)
        held = connection.execute(text(f"SELECT 1 FROM shards WHERE {HELD}"), named(lease))
        if state.is_final or held.scalar() is None:
            return
        set_state(store, connection, key.job_id, JobState.FAILED, error=reason)
        _take_back(store, connection, key.job_id, "= 'running'", _UNHARMED)

    write(store, work)


def pause_job(store: Store, job_id: str) -> None:
    """Stop a job where it stands, to be resumed.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it does not run.
    """

    def work(connection: Connection) -> None:
        _expect(store, connection, job_id, _UNDER_WAY, "paused")
        set_state(store, connection, job_id, JobState.PAUSED)
        _take_back(store, connection, job_id, "= 'running'", _UNHARMED)

    write(store, work, repeatable=False)


def resume_job(store: Store, job_id: str) -> None:
    """Let a paused or interrupted job go on.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it has ended.
    """

    def work(connection: Connection) -> None:
        state = _expect(store, connection, job_id, (*_UNDER_WAY, JobState.PAUSED), "resumed")
        if state is JobState.PAUSED:
            set_state(store, connection, job_id, JobState.QUEUED)

    write(store, work)


def _expect(
    store: Store, connection: Connection, job_id: str, allowed: Collection[JobState], wanted: str
) -> JobState:
    """Lock a job and return its state, if it is one of those from which it can be `wanted`."""
    state = lock_job(store, connection, job_id)
    if state not in allowed:
        fix = f"endmark export {job_id} -o FILE" if state.is_final else f"endmark resume {job_id}"
        fix = f"endmark retry {job_id} --failed" if state is JobState.FAILED else fix
        problem = "already" if state == wanted else f"and cannot be {wanted}"
        raise JobStateError(f"job `{job_id}` is {state} {problem}", hint=f"`{fix}`")
    return state


def _take_back(store: Store, connection: Connection, job_id: str, states: str, changes: str) -> None:
    """Change a job's shards of some states; whoever holds one loses it."""
    mine = f"job_id = :job AND state {states}"
    if store.dialect == "postgresql":  # in the order in which heartbeats lock them
        connection.execute(
            text(f"SELECT shard FROM shards WHERE {mine} ORDER BY shard{row_lock(store)}"), {"job": job_id}
        )
    connection.execute(
        text(f"UPDATE shards SET {changes}, fence = fence + 1, lease_until = NULL WHERE {mine}"), {"job": job_id}
    )
