"""Asking rows again: a new round with a changed spec, for the rows that ended for one of some reasons."""

from collections.abc import Collection

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.counting import recount
from endmark.db.job_states import lock_job, set_state
from endmark.db.submission import add_spec
from endmark.db.transactions import write
from endmark.jobs.errors import JobStateError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import FinishReason, JobState, Part, ShardKey

NO_ROUND = -1  # of rows that were cancelled and are not asked again
_RESULT = (
    "SELECT 1 FROM attempts a"
    " WHERE a.job_id = rows.job_id AND a.row = rows.row AND a.final AND a.round = rows.round"
)


def retry_rows(
    store: Store,
    job_id: str,
    *,
    spec: GenerationSpec,
    reasons: Collection[FinishReason],
    in_thought: bool = False,
) -> list[ShardKey]:
    """Ask again for the rows of an ended job that ended for one of these reasons, under this spec.

    Of a job that has failed as a whole, those that were never run are asked in any case; with `in_thought` also
    those that ended inside a thought, for whatever reason.

    Returns:
        The shards that hold such rows; none if there are no such rows.

    Raises:
        JobNotFound: there is no such job.
        JobStateError: it has not ended.
    """

    def work(connection: Connection) -> list[ShardKey]:
        state = lock_job(store, connection, job_id)
        if not state.is_final:
            raise JobStateError(
                f"job `{job_id}` is {state}: its rows can be asked again when it has ended",
                hint=f"`endmark cancel {job_id}` ends it",
            )
        number = _next_round(connection, job_id)
        # Of a job that failed as a whole the rows that nobody has run are failed ones, too.
        wanted = {*reasons, FinishReason.CANCELLED} if state is JobState.FAILED else reasons
        if not _take_rows(connection, job_id, number, wanted, in_thought=in_thought):
            return []
        if state is JobState.CANCELLED:
            connection.execute(
                text(
                    "UPDATE rows SET round = :none WHERE job_id = :job AND round <> :round"
                    f" AND NOT EXISTS ({_RESULT})"
                ),
                {"job": job_id, "round": number, "none": NO_ROUND},
            )
        add_spec(connection, job_id, number, spec)
        # The time between the rounds is no time at work: without it, the speed stays what it was.
        connection.execute(
            text(
                "UPDATE jobs SET model = :model, adapter = :adapter,"
                f" started_at = {store.now} - (finished_at - started_at) WHERE id = :job"
            ),
            {"job": job_id, "model": spec.model, "adapter": spec.adapter},
        )
        set_state(store, connection, job_id, JobState.QUEUED)
        shards = _queue_shards(connection, job_id, number)
        recount(connection, job_id, shards)
        return [ShardKey(job_id, shard) for shard in shards]

    return write(store, work, repeatable=False)


def restore_answers(connection: Connection, job_id: str) -> None:
    """Let the rows of a cancelled round that were answered in an earlier one have that answer."""
    if _next_round(connection, job_id) == 1:
        return
    earlier = "SELECT max(b.round) FROM attempts b WHERE b.job_id = rows.job_id AND b.row = rows.row AND b.final"
    connection.execute(
        text(
            f"UPDATE rows SET round = ({earlier}) WHERE job_id = :job AND NOT EXISTS ({_RESULT})"
            f" AND ({earlier}) IS NOT NULL"
        ),
        {"job": job_id},
    )
    shards = connection.execute(text("SELECT shard FROM shards WHERE job_id = :job"), {"job": job_id})
    recount(connection, job_id, list(shards.scalars()))


def _next_round(connection: Connection, job_id: str) -> int:
    """Return the number of the round that would follow."""
    found = connection.execute(text("SELECT max(round) FROM specs WHERE job_id = :job"), {"job": job_id})
    return int(found.scalar_one()) + 1


def _take_rows(
    connection: Connection, job_id: str, number: int, reasons: Collection[FinishReason], *, in_thought: bool
) -> int:
    """Put the rows that ended so into a round; return how many."""
    names = ", ".join(f"'{FinishReason(reason).value}'" for reason in reasons)
    wanted = [f"EXISTS ({_RESULT} AND a.finish_reason IN ({names}))"] if names else []
    if in_thought:
        wanted.append(f"EXISTS ({_RESULT} AND a.ended_in = '{Part.REASONING}')")
    if FinishReason.CANCELLED in reasons:
        wanted.append(f"NOT EXISTS ({_RESULT})")
    if not wanted:
        return 0
    done = connection.execute(
        text(f"UPDATE rows SET round = :round WHERE job_id = :job AND ({' OR '.join(wanted)})"),
        {"job": job_id, "round": number},
    )
    return done.rowcount


def _queue_shards(connection: Connection, job_id: str, number: int) -> list[int]:
    """Queue the shards that hold rows of a round; return them in order."""
    found = connection.execute(
        text(
            "UPDATE shards SET state = 'queued', attempts = 0 WHERE job_id = :job AND EXISTS"
            " (SELECT 1 FROM rows r WHERE r.job_id = shards.job_id AND r.row >= shards.first_row"
            " AND r.row < shards.end_row AND r.round = :round) RETURNING shard"
        ),
        {"job": job_id, "round": number},
    )
    return sorted(found.scalars())
