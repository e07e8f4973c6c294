"""Deliveries in the ledger: what is told once when a job has ended, by whoever comes first and has the key."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, text

from endmark.db.connection import Store
from endmark.db.job_states import FINAL
from endmark.db.progress import job_status
from endmark.db.transactions import reading, write
from endmark.jobs.delivery.keys import Key
from endmark.jobs.delivery.sending import COMMAND_SECONDS, URL_SECONDS, Send
from endmark.jobs.delivery.word import COMMAND, URL, Delivery, Kind, NewDelivery, word_of
from endmark.jobs.errors import JobNotFound

WAITS = (
    5.0,
    20.0,
    80.0,
    300.0,
    900.0,
    3600.0,
    4 * 3600.0,
    12 * 3600.0,
)  # seconds before each further try of a URL
_LEASE = {URL: 4 * URL_SECONDS, COMMAND: COMMAND_SECONDS + 60.0}  # seconds
_WRITING = 600.0  # seconds that `endmark run` has to write the results before the word goes out without it
_NAMED = "job_id = :job AND kind = :kind AND attempts = :attempt AND state = 'waiting'"


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """How a delivery stands."""

    kind: Kind
    target: str
    state: str  # waiting, delivered or failed
    attempts: int
    error: str | None  # of the last attempt


def add_deliveries(store: Store, job_id: str, wanted: Sequence[tuple[NewDelivery, Key]]) -> None:
    """Store what is to be told when a job has ended, with its proofs.

    Raises:
        StoreError: the database cannot be used.
    """
    values = [
        {
            "job": job_id,
            "kind": item.kind,
            "target": item.target,
            "key": key.id,
            "proof": key.proof(job_id, item.kind, item.target),
        }
        for item, key in wanted
    ]

    def work(connection: Connection) -> None:
        connection.execute(
            text(
                "INSERT INTO deliveries (job_id, kind, target, key_id, proof, state)"
                " VALUES (:job, :kind, :target, :key, :proof, 'waiting')"
                " ON CONFLICT (job_id, kind) DO NOTHING"
            ),
            values,
        )

    if values:
        write(store, work)


def deliveries_of(store: Store, job_id: str) -> list[DeliveryRecord]:
    """Return how a job's deliveries stand.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text("SELECT kind, target, state, attempts, error FROM deliveries WHERE job_id = :job ORDER BY kind"),
            {"job": job_id},
        ).all()
    return [DeliveryRecord(*item) for item in found]


def deliver_due(store: Store, keys: Collection[Key], send: Send, *, job_id: str | None = None) -> None:
    """Tell what is due and can be proved by one of the keys; note how it went.

    Args:
        send: as `endmark.jobs.delivery.sending.send`.
        job_id: tell of this job alone, and at once: its results are written.

    Raises:
        StoreError: the database cannot be used; what was told may be told again then.
    """
    by_id = {key.id: key for key in keys}
    told: set[tuple[str, str]] = set()
    while by_id and (delivery := _claim(store, list(by_id), job_id, told)) is not None:
        told.add((delivery.job_id, delivery.kind))
        _end(store, delivery, _tell(store, delivery, by_id[delivery.key_id], send))


def _tell(store: Store, delivery: Delivery, key: Key, send: Send) -> tuple[str, bool]:
    """Send a word; return what went wrong, empty if nothing did, and whether trying again may help."""
    if not key.proves(delivery.proof, delivery.job_id, delivery.kind, delivery.target):
        return "was not stored by who has the key", False
    if delivery.kind == COMMAND and delivery.attempt > 1:
        return "whoever ran it has died meanwhile; it is not run twice", False
    now = time.time()
    try:
        word = word_of(job_status(store, delivery.job_id), now)
    except JobNotFound:
        return "the job was deleted meanwhile", False
    error = send(delivery, key, word, now)
    return error or "", delivery.kind == URL


def _claim(
    store: Store, key_ids: Sequence[str], job_id: str | None, but: Collection[tuple[str, str]]
) -> Delivery | None:
    """Take the delivery that is longest due, under a lease; None if there is none."""
    if job_id is not None:
        wanted = "d.job_id = :job"
    else:
        unwritten = f"SELECT 1 FROM runs r WHERE r.job_id = d.job_id AND j.finished_at > {store.now} - {_WRITING}"
        wanted = f"(d.due_at IS NULL OR d.due_at <= {store.now}) AND NOT EXISTS ({unwritten})"
    statement = text(
        "SELECT d.job_id, d.kind, d.target, d.key_id, d.proof, d.attempts FROM deliveries d"
        f" JOIN jobs j ON j.id = d.job_id WHERE d.state = 'waiting' AND j.state IN ({FINAL})"
        f" AND d.key_id IN :keys AND (d.leased_until IS NULL OR d.leased_until < {store.now})"
        f" AND {wanted} ORDER BY j.finished_at, d.job_id, d.kind LIMIT 20"
    ).bindparams(bindparam("keys", expanding=True))
    with reading(store) as connection:
        found = connection.execute(statement, {"keys": list(key_ids), "job": job_id}).all()
    for item in found:
        if (item.job_id, item.kind) not in but and _take(store, item.job_id, item.kind, item.attempts):
            return Delivery(item.job_id, item.kind, item.target, item.key_id, item.proof, item.attempts + 1)
    return None


def _take(store: Store, job_id: str, kind: Kind, attempts: int) -> bool:
    """Take a delivery; return whether nobody was faster."""

    def work(connection: Connection) -> bool:
        done = connection.execute(
            text(
                f"UPDATE deliveries SET attempts = attempts + 1, leased_until = {store.now} + :seconds"
                f" WHERE {_NAMED} AND (leased_until IS NULL OR leased_until < {store.now})"
            ),
            {"job": job_id, "kind": kind, "attempt": attempts, "seconds": _LEASE[kind]},
        )
        return done.rowcount == 1

    return write(store, work, repeatable=False)


def _end(store: Store, delivery: Delivery, outcome: tuple[str, bool]) -> None:
    """Note how an attempt went, and when the next is due."""
    error, again = outcome
    wait = WAITS[delivery.attempt - 1] if again and error and delivery.attempt <= len(WAITS) else None
    state = "delivered" if not error else "failed" if wait is None else "waiting"

    def work(connection: Connection) -> None:
        connection.execute(
            text(
                "UPDATE deliveries SET state = :state, error = :error, leased_until = NULL,"
                f" due_at = {store.now} + :wait WHERE {_NAMED}"
            ),
            {
                "job": delivery.job_id,
                "kind": delivery.kind,
                "attempt": delivery.attempt,
                "state": state,
                "error": error or None,
                "wait": wait or 0.0,
            },
        )

    write(store, work)
