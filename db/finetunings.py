"""Fine-tunings in the ledger: stored, claimed by one worker under a lease, told on, ended."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.job_states import LEASE_SECONDS
from endmark.db.transactions import reading, write
from endmark.jobs.errors import JobNotFound, LeaseLost, SpecError
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec

# One that ends later than a lease from now was given before the clock was put back.
_DUE = (
    "(state = 'queued' OR (state = 'running'"
    f" AND (lease_until < {{now}} OR lease_until > {{now}} + {LEASE_SECONDS + 5.0})))"
)


@dataclass(frozen=True, slots=True)
class FinetuneLease:
    """One worker's hold on a fine-tuning."""

    id: str
    fence: int
    spec: FinetuneSpec


@dataclass(frozen=True, slots=True)
class FinetuneStatus:
    """How a fine-tuning stands."""

    state: str  # queued, running, completed, failed or cancelled
    due: bool  # no worker holds it, and one should
    progress: FinetuneProgress | None
    error: Mapping[str, Any] | None  # `message`, `hint`, `code`; only where it has failed

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state not in ("queued", "running")


@dataclass(frozen=True, slots=True)
class FinetuneEntry:
    """A fine-tuning in a list of them."""

    id: str
    spec: FinetuneSpec | None
    state: str
    progress: FinetuneProgress | None
    message: str | None  # why it has failed
    worker: str | None  # that holds it, or was the last to
    age: float  # seconds since it was stored


def add_finetuning(store: Store, spec: FinetuneSpec) -> str:
    """Store a fine-tuning for a worker of its model; return its id.

    Raises:
        StoreError: the database cannot be used.
    """
    found = secrets.token_hex(6)
    values = {"id": found, "model": spec.model, "spec": spec.to_json()}

    def work(connection: Connection) -> None:
        connection.execute(
            text(
                "INSERT INTO finetunings (id, model, spec, state, created_at, updated_at)"
                f" VALUES (:id, :model, :spec, 'queued', {store.now}, {store.now}) ON CONFLICT (id) DO NOTHING"
            ),
            values,
        )

    write(store, work)
    return found


def claim_finetuning(
    store: Store, finetuning: str, *, model: str, worker: str, lease_seconds: float = LEASE_SECONDS
) -> FinetuneLease | None:
    """Take a fine-tuning; None if it is another model's, has ended, or another worker holds it.

    Raises:
        StoreError: the database cannot be used.
    """
    statement = (
        f"UPDATE finetunings SET state = 'running', fence = fence + 1, lease_until = {store.now} + :seconds,"
        f" worker = :worker, updated_at = {store.now}"
        f" WHERE id = :id AND model = :model AND {_due(store)} RETURNING fence, spec"
    )
    values = {"id": finetuning, "model": model, "worker": worker, "seconds": lease_seconds}

    def work(connection: Connection) -> FinetuneLease | None:
        row = connection.execute(text(statement), values).one_or_none()
        return None if row is None else FinetuneLease(finetuning, row.fence, FinetuneSpec.from_json(row.spec))

    return write(store, work, repeatable=False)


def due_finetuning(store: Store, model: str) -> str | None:
    """Return the oldest fine-tuning of a model that no worker holds.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text(
                f"SELECT id FROM finetunings WHERE model = :model AND {_due(store)}"
                " ORDER BY created_at, id LIMIT 1"
            ),
            {"model": model},
        )
        first: str | None = found.scalar()
    return first


def report_finetuning(
    store: Store, lease: FinetuneLease, progress: FinetuneProgress | None, *, lease_seconds: float = LEASE_SECONDS
) -> None:
    """Store how far it is, and prolong the lease.

    Raises:
        LeaseLost: it was cancelled, or another worker holds it.
        StoreError: the database cannot be used.
    """
    told = None if progress is None else progress.to_json()
    changes = f"lease_until = {store.now} + :seconds, progress = coalesce(:progress, progress)"
    _update(store, lease, changes, {"seconds": lease_seconds, "progress": told})


def end_finetuning(store: Store, lease: FinetuneLease, error: Mapping[str, Any] | None) -> None:
    """Close it: completed, or failed with the error.

    Raises:
        LeaseLost: it was cancelled, or another worker holds it.
        StoreError: the database cannot be used.
    """
    state = "completed" if error is None else "failed"
    values = {"state": state, "error": None if error is None else json.dumps(dict(error), ensure_ascii=False)}
    _update(store, lease, "state = :state, error = :error, lease_until = NULL", values)


def release_finetuning(store: Store, lease: FinetuneLease) -> None:
    """Give it back unfinished, for any worker to go on with.

    Raises:
        LeaseLost: it was cancelled, or another worker holds it.
        StoreError: the database cannot be used.
    """
    _update(store, lease, "state = 'queued', lease_until = NULL", {})


def cancel_finetuning(store: Store, finetuning: str) -> bool:
    """End it, whoever holds it; return whether it had not ended yet.

    Raises:
        StoreError: the database cannot be used.
    """

    def work(connection: Connection) -> bool:
        done = connection.execute(
            text(
                f"UPDATE finetunings SET state = 'cancelled', lease_until = NULL, updated_at = {store.now}"
                " WHERE id = :id AND state IN ('queued', 'running')"
            ),
            {"id": finetuning},
        )
        return done.rowcount == 1

    return write(store, work, repeatable=False)


def resolve_finetuning(store: Store, wanted: str) -> str:
    """Return the id of the fine-tuning that an id, or an unambiguous beginning of one, names.

    Raises:
        JobNotFound: there is none, or more than one.
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text("SELECT id FROM finetunings WHERE substr(id, 1, :length) = :wanted LIMIT 2"),
            {"wanted": wanted, "length": len(wanted)},
        )
        ids: list[str] = list(found.scalars())
    if len(ids) != 1 or not wanted:
        raise JobNotFound(wanted, hint="`endmark finetune --list` lists them", what="fine-tuning")
    return ids[0]


def list_finetunings(store: Store) -> list[FinetuneEntry]:
    """Return all fine-tunings, the newest first; the spec of one that another version has stored is None.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text(
                f"SELECT id, spec, state, progress, error, worker, {store.now} - created_at AS age"
                " FROM finetunings ORDER BY created_at DESC, id"
            )
        ).all()
    return [
        FinetuneEntry(
            id=row.id,
            spec=_spec(row.spec),
            state=row.state,
            progress=None if row.progress is None else FinetuneProgress.from_json(row.progress),
            message=None if row.error is None else str(json.loads(row.error)["message"]),
            worker=row.worker,
            age=row.age,
        )
        for row in found
    ]


def _spec(stored: str) -> FinetuneSpec | None:
    """Return a stored spec; None where another version of the program has written it."""
    try:
        return FinetuneSpec.from_json(stored)
    except SpecError:
        return None


def finetuning_status(store: Store, finetuning: str) -> FinetuneStatus:
    """Return how it stands.

    Raises:
        JobNotFound: there is none of that id.
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        row = connection.execute(
            text(f"SELECT state, progress, error, {_due(store)} AS due FROM finetunings WHERE id = :id"),
            {"id": finetuning},
        ).one_or_none()
    if row is None:
        raise JobNotFound(finetuning)
    return FinetuneStatus(
        state=row.state,
        due=bool(row.due),
        progress=None if row.progress is None else FinetuneProgress.from_json(row.progress),
        error=None if row.error is None else json.loads(row.error),
    )


def _due(store: Store) -> str:
    """Return the condition for one that a worker may take."""
    return _DUE.format(now=store.now)


def _update(store: Store, lease: FinetuneLease, changes: str, values: Mapping[str, Any]) -> None:
    """Change a fine-tuning that the lease still holds."""

    def work(connection: Connection) -> None:
        done = connection.execute(
            text(
                f"UPDATE finetunings SET {changes}, updated_at = {store.now}"
                " WHERE id = :id AND fence = :fence AND state = 'running'"
            ),
            {**values, "id": lease.id, "fence": lease.fence},
        )
        if done.rowcount != 1:
            raise LeaseLost(f"fine-tuning {lease.id} is held by another worker, or was cancelled")

    write(store, work, repeatable=False)
