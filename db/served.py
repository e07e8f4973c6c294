"""What the records of the Batch API have in common: whose they are, and which folder holds their files."""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, text

from endmark.db.connection import Store
from endmark.db.transactions import reading, write

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")
NOBODY = ""  # owns what was stored without a token

_Record = TypeVar("_Record")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    owner: str  # of what the caller stores
    operator: bool = False  # sees what others own, too


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one shelf."""

    store: Store
    shelf: str  # its id

    def visible(self, caller: Caller | None) -> tuple[str, dict[str, object]]:
        """Return the condition for what a caller may see, with its values.

        Args:
            caller: None for the service itself.
        """
        if caller is None or caller.operator:
            return "shelf = :shelf", {"shelf": self.shelf}
        return "shelf = :shelf AND owner = :caller", {"shelf": self.shelf, "caller": caller.owner}

    def jobs_of(self, caller: Caller) -> set[str]:
        """Return the ids of the jobs that are batches which a caller sees.

        Raises:
            StoreError: the database cannot be used.
        """
        condition, values = self.visible(caller)
        query = text(f"SELECT job_id FROM batches WHERE {condition} AND job_id IS NOT NULL")
        with reading(self.store) as connection:
            return set(connection.execute(query, values).scalars())

    def hand_over(self, owner: str, new: str) -> int:
        """Give all that one owns to another; return how many files and batches.

        Raises:
            StoreError: the database cannot be used.
        """

        def work(connection: Connection) -> int:
            values = {"shelf": self.shelf, "owner": owner, "new": new}
            return sum(
                connection.execute(
                    text(f"UPDATE {table} SET owner = :new WHERE shelf = :shelf AND owner = :owner"), values
                ).rowcount
                for table in ("files", "batches")
            )

        return write(self.store, work)


def read_page(
    store: Store, statement: str, values: Mapping[str, object], read: Callable[[Any], _Record], limit: int
) -> list[_Record]:
    """Return the first records that a statement selects; those that are damaged are left out and logged.

    Args:
        statement: without a limit; the rows have an `id`.
        read: makes a record of a row.

    Raises:
        StoreError: the database cannot be used.
    """
    found: list[_Record] = []
    seen = 0
    query = text(f"{statement} LIMIT :limit OFFSET :seen")
    with reading(store) as connection:
        while len(found) < limit:
            rows = connection.execute(query, {**values, "limit": limit, "seen": seen}).all()
            seen += len(rows)
            records = (read_one(row, read) for row in rows)
            found += [record for record in records if record is not None]
            if len(rows) < limit:
                break
    return found[:limit]


def read_one(row: Any, read: Callable[[Any], _Record]) -> _Record | None:  # noqa: ANN401 - a row of a query
    """Return the record of a row; None if it is damaged, which is logged."""
    try:
        return read(row)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        _say_damaged(row.id, f"{type(error).__name__}: {error}")
        return None


def parsed(written: str, kind: type) -> Any:  # noqa: ANN401 - of that kind
    """Return a value of a record that was written as JSON.

    Raises:
        ValueError: it is no JSON, or of another kind.
    """
    value = json.loads(written)
    if not isinstance(value, kind):
        raise ValueError(f"{written[:40]!r} is no {kind.__name__}")
    return value


@cache
def _say_damaged(record: str, reason: str) -> None:
    """Log it once: the service looks at its records every other second."""
    log.warning("the record of %s is damaged and is left out: %s", record, reason)
