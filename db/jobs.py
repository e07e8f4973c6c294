"""Jobs: stored in steps, looked up, cancelled, paused, resumed, asked again."""

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from db.connection import Store
from db.counting import recount
from jobs.errors import JobNotFound, JobStateError
from jobs.spec import GenerationSpec
from jobs.vocabulary import FinishReason, JobState, ShardKey


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


def begin_job(store: Store, *, name: str, spec: GenerationSpec, priority: int = 0) -> str:
    """Make a job that takes rows and that nobody sees yet; return its id."""
    job_id = secrets.token_hex(4)
    values = {
        "id": job_id,
        "name": name,
        "state": JobState.SUBMITTING,
        "priority": priority,
        "model": spec.model,
        "adapter": spec.adapter,
    }
    with store.writer.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (id, name, state, priority, model, adapter, created_at)"
                f" VALUES (:id, :name, :state, :priority, :model, :adapter, {store.now})"
            ),
            values,
        )
        _add_spec(connection, job_id, 0, spec)
    return job_id


def add_rows(store: Store, job_id: str, first_row: int, cells: Sequence[str]) -> None:
    """Store rows in one transaction.

    Args:
        first_row: the number of the first of them.
        cells: for each row the JSON list of its cells.
    """
    numbered = enumerate(cells, first_row)
    with store.writer.begin() as connection:
        if store.dialect == "postgresql":
            raw = connection.connection.cursor()
            with raw.copy("COPY rows (job_id, row, cells) FROM STDIN") as copy:
                for row, text_of_row in numbered:
                    copy.write_row((job_id, row, text_of_row))
        else:
            raw = connection.connection.cursor()
            raw.executemany(
                "INSERT INTO rows (job_id, row, cells) VALUES (?, ?, ?)",
                [(job_id, row, text_of_row) for row, text_of_row in numbered],
            )


def finish_submission(
    store: Store, job_id: str, *, columns: Sequence[str], total: int, shard_size: int
) -> list[ShardKey]:
    """Cut the stored rows into shards and queue the job; return its shards."""
    bounds = [(begin, min(begin + shard_size, total)) for begin in range(0, total, shard_size)]
    values = [
        {"job": job_id, "shard": shard, "first": first, "end": end} for shard, (first, end) in enumerate(bounds)
    ]
    with store.writer.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO shards (job_id, shard, first_row, end_row, state)"
                " VALUES (:job, :shard, :first, :end, 'queued')"
            ),
            values,
        )
        connection.execute(
            text("UPDATE jobs SET state = 'queued', columns = :columns, total = :total WHERE id = :job"),
            {"job": job_id, "columns": json.dumps(list(columns), ensure_ascii=False), "total": total},
        )
    return [ShardKey(job_id, shard) for shard in range(len(bounds))]


def discard_submission(store: Store, job_id: str) -> None:
    """Forget a job that was being stored, with its rows."""
    with store.writer.begin() as connection:
        connection.execute(text("DELETE FROM jobs WHERE id = :job AND state = 'submitting'"), {"job": job_id})


def resolve_job(store: Store, wanted: str) -> str:
    """Return the id of the job that an id, an unambiguous beginning of one, or `latest` names.

    Raises:
        JobNotFound: there is no such job, or more than one.
    """
    condition = "state <> 'submitting'" + (" AND id LIKE :prefix" if wanted != "latest" else "")
    with store.reader.connect() as connection:
        found = connection.execute(
            text(f"SELECT id FROM jobs WHERE {condition} ORDER BY created_at DESC LIMIT 2"),
            {"prefix": wanted.replace("%", "").replace("_", "") + "%"},
        ).scalars()
        ids = list(found)
    if not ids or (len(ids) > 1 and wanted not in ("latest", *ids)):
        raise JobNotFound(wanted)
    return wanted if wanted in ids else ids[0]


def load_job(store: Store, job_id: str) -> Job:
    """Return a job.

    Raises:
        JobNotFound: there is none of that id.
    """
    with store.reader.connect() as connection:
        found = connection.execute(
            text("SELECT name, state, priority, columns, total FROM jobs WHERE id = :job"), {"job": job_id}
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
        columns=tuple(json.loads(found.columns or "[]")),
        total=found.total,
        specs={item.round: GenerationSpec.from_json(item.spec) for item in specs},
    )


def cancel_job(store: Store, job_id: str) -> None:
    """End a job; the rows that have a result keep it. A job that has ended stays as it is.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it has ended already.
    """
    with store.writer.begin() as connection:
        _move(store, connection, job_id, {"queued", "running", "paused"}, JobState.CANCELLED)
        connection.execute(
            text(f"UPDATE jobs SET finished_at = {store.now} WHERE id = :job"),
            {"job": job_id},
        )
        connection.execute(
            text(
                "UPDATE shards SET state = 'done', fence = fence + 1, lease_until = NULL"
                " WHERE job_id = :job AND state <> 'done'"
            ),
            {"job": job_id},
        )


def pause_job(store: Store, job_id: str) -> None:
    """Stop a job where it stands, to be resumed.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it does not run.
    """
    with store.writer.begin() as connection:
        _move(store, connection, job_id, {"queued", "running"}, JobState.PAUSED)
        _requeue(connection, job_id)


def resume_job(store: Store, job_id: str) -> list[ShardKey]:
    """Let a paused or interrupted job go on; return the shards to send messages for.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it has ended.
    """
    with store.writer.begin() as connection:
        _move(store, connection, job_id, {"queued", "running", "paused"}, JobState.QUEUED)
        found = connection.execute(
            text("SELECT shard FROM shards WHERE job_id = :job AND state = 'queued' ORDER BY shard"),
            {"job": job_id},
        ).scalars()
        return [ShardKey(job_id, shard) for shard in found]


def set_priority(store: Store, job_id: str, priority: int) -> None:
    """Change a job's priority; higher goes first."""
    with store.writer.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET priority = :priority WHERE id = :job"), {"job": job_id, "priority": priority}
        )


def retry_rows(
    store: Store, job_id: str, *, spec: GenerationSpec, reasons: Collection[FinishReason]
) -> list[ShardKey]:
    """Ask again for the rows of an ended job that ended for one of these reasons, under this spec.

    Returns:
        The shards that hold such rows; none if there are no such rows.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it has not ended.
    """
    with store.writer.begin() as connection:
        ended = {JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS, JobState.CANCELLED, JobState.FAILED}
        number = 1 + (
            connection.execute(text("SELECT max(round) FROM specs WHERE job_id = :job"), {"job": job_id}).scalar()
            or 0
        )
        names = ", ".join(f"'{FinishReason(reason).value}'" for reason in reasons)
        changed = connection.execute(
            text(
                "UPDATE rows SET round = :round WHERE job_id = :job AND row IN (SELECT a.row FROM attempts a"
                " WHERE a.job_id = :job AND a.final AND a.round = rows.round"
                f" AND a.row = rows.row AND a.finish_reason IN ({names})) RETURNING row"
            ),
            {"job": job_id, "round": number},
        ).scalars()
        taken = sorted(changed)
        if not taken:
            return []
        _move(store, connection, job_id, set(ended), JobState.QUEUED)
        connection.execute(text("UPDATE jobs SET finished_at = NULL WHERE id = :job"), {"job": job_id})
        _add_spec(connection, job_id, number, spec)
        bounds = connection.execute(
            text("SELECT shard, first_row, end_row FROM shards WHERE job_id = :job"), {"job": job_id}
        ).all()
        hit = [item.shard for item in bounds if any(item.first_row <= row < item.end_row for row in taken)]
        connection.execute(
            text(
                "UPDATE shards SET state = 'queued', attempts = 0, sent_at = 0"
                " WHERE job_id = :job AND shard = :shard"
            ),
            [{"job": job_id, "shard": shard} for shard in hit],
        )
        recount(connection, job_id, hit)
    return [ShardKey(job_id, shard) for shard in hit]


def _move(store: Store, connection: Connection, job_id: str, allowed: Collection[str], state: JobState) -> None:
    """Set the state of a job that is in one of the allowed ones."""
    del store
    found = connection.execute(text("SELECT state FROM jobs WHERE id = :job"), {"job": job_id}).scalar()
    if found is None or found == JobState.SUBMITTING:
        raise JobNotFound(job_id)
    if found not in allowed:
        raise JobStateError(f"job `{job_id}` is {found}")
    connection.execute(text("UPDATE jobs SET state = :state WHERE id = :job"), {"job": job_id, "state": state})


def _requeue(connection: Connection, job_id: str) -> None:
    """Take the leases of a job's shards away from their workers."""
    connection.execute(
        text(
            "UPDATE shards SET state = 'queued', fence = fence + 1, lease_until = NULL, sent_at = 0,"
            " attempts = attempts - 1 WHERE job_id = :job AND state = 'running'"
        ),
        {"job": job_id},
    )


def _add_spec(connection: Connection, job_id: str, number: int, spec: GenerationSpec) -> None:
    """Store the spec of a round."""
    connection.execute(
        text("INSERT INTO specs (job_id, round, spec) VALUES (:job, :round, :spec)"),
        {"job": job_id, "round": number, "spec": spec.to_json()},
    )
