"""What the store's tests do with a ledger: make outcomes, claim, let leases run out, count rows themselves."""

from sqlalchemy import text

from endmark.db.attempts import commit
from endmark.db.rows import unfinished_rows
from endmark.db.schema import COUNTERS
from endmark.db.shards import claim, finish
from endmark.jobs.vocabulary import Attempt, Ending, EosSource, EosTrace, FinishReason, Outcome, Verdict

MODEL = "m"


def attempt(row, reason="eos", *, number=1, text="answer", source="natural", tokens=3, **about):
    """An attempt that ended so."""
    reason = FinishReason(reason)
    verdict = Verdict(
        reason,
        eos_source=EosSource(source) if reason is FinishReason.EOS else None,
        error="too long" if reason is FinishReason.ERROR else None,
        stop_sequence="##" if reason is FinishReason.STOP_SEQUENCE else None,
    )
    return Attempt(row, number, text, verdict, 5, tokens, EosTrace(prob_max=0.5), **about)


def outcome(row, reason="eos", *, round=0, **about):
    """What a row has come to in one attempt."""
    return Outcome(round, (attempt(row, reason, **about),))


def take(store, worker="host:1", model=MODEL, adapter=None, **options):
    """Claim the next shard."""
    return claim(store, worker=worker, model=model, adapter=adapter, **options)


def answer(store, lease, reason="eos", **about):
    """Answer every unfinished row of a shard and close it."""
    rows = unfinished_rows(store, lease)
    commit(
        store,
        lease,
        [outcome(item.row, reason, round=item.round, number=item.attempts + 1, **about) for item in rows],
    )
    finish(store, lease)
    return [item.row for item in rows]


def answer_all(store, reason="eos", **about):
    """Work until nothing is due; return the rows in the order in which they were answered."""
    rows = []
    while (lease := take(store)) is not None:
        rows += answer(store, lease, reason, **about)
    return rows


def expire(store):
    """Let every lease run out, as if their workers had died long ago."""
    execute(store, "UPDATE shards SET lease_until = 0 WHERE state = 'running'")


def execute(store, statement, **values):
    """Change the ledger past Endmark."""
    with store.writer.begin() as connection:
        connection.execute(text(statement), values)


def rows_of(store, statement, **values):
    """Look into the ledger past Endmark."""
    with store.reader.connect() as connection:
        return [tuple(item) for item in connection.execute(text(statement), values)]


def counters(store, job):
    """The counters of a job's shards."""
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTERS)
    (found,) = rows_of(store, f"SELECT {sums} FROM shards WHERE job_id = :job", job=job)
    return dict(zip(COUNTERS, map(int, found), strict=True))


def recounted(store, job):
    """The same counters, counted row by row: a row's result is the last attempt of the round that it is in."""
    rounds = dict(rows_of(store, "SELECT row, round FROM rows WHERE job_id = :job", job=job))
    attempts = rows_of(
        store,
        "SELECT row, round, finish_reason, eos_source, ending, prompt_tokens, completion_tokens, ended_in,"
        " reasoning_tokens, same_as, cached_tokens FROM attempts WHERE job_id = :job ORDER BY row, round, attempt",
        job=job,
    )
    found = {row: values for row, round, *values in attempts if rounds[row] == round}.values()
    counts = dict.fromkeys(COUNTERS, 0)
    for reason, source, ending, prompt, completion, part, reasoning, same_as, cached in found:
        counts["failed" if reason == "error" else "succeeded"] += 1
        if reason != "error":
            counts[f"eos_{source}" if reason == "eos" else reason] += 1
        verdict = Verdict(FinishReason(reason), EosSource(source) if source else None)
        counts["complete"] += ending is not None and Ending(ending).is_complete(verdict.end)
        counts["prompt_tokens"] += prompt
        counts["completion_tokens"] += completion
        counts["in_reasoning"] += part == "reasoning"
        counts["reasoning_tokens"] += reasoning
        counts["cached_tokens"] += cached
        counts["deduplicated"] += same_as is not None
    return counts


def doubled(store):
    """Rows that have more than one result in one round."""
    return rows_of(
        store,
        "SELECT job_id, row FROM attempts WHERE final GROUP BY job_id, row, round HAVING count(*) > 1",
    )
