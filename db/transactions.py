"""Reading and writing the ledger: whole transactions, done again where that helps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, TimeoutError

from endmark.db.connection import Store
from endmark.db.failures import failure, passes

_WAITS = (0.1, 0.3, 0.9)  # seconds before each further try
Result = TypeVar("Result")


@contextmanager
def reading(store: Store) -> Iterator[Connection]:
    """Give a connection that only reads.

    Raises:
        StoreError: the database cannot be used.
    """
    try:
        with store.reader.connect() as connection:
            yield connection
    except (DBAPIError, TimeoutError) as error:
        raise failure(store.url, error) from error


def write(
    store: Store, work: Callable[[Connection], Result], *, repeatable: bool = True, durable: bool = False
) -> Result:
    """Do the work in one transaction; if the connection drops or another writer is in the way, do it again whole.

    Args:
        work: what to do; it may run several times, of which all but the last were rolled back.
        repeatable: whether it may run again even after a commit whose reply was lost, and which may be stored.
        durable: whether it, and all that was stored before, outlives a loss of power in SQLite too, which else
            leaves the time of writing to the kernel; it takes a flush of the disk.

    Raises:
        StoreError: the database cannot be used.
    """
    waits = iter(_WAITS)
    while True:
        committing = False
        try:
            with _transaction(store, durable=durable) as connection:
                result = work(connection)
                committing = True
            return result
        except (DBAPIError, TimeoutError) as error:
            wait = next(waits, None)
            if wait is None or not passes(error) or (committing and not repeatable):
                raise failure(store.url, error) from error
        time.sleep(wait)


@contextmanager
def _transaction(store: Store, *, durable: bool) -> Iterator[Connection]:
    """Give a connection in a transaction, which is committed at the end."""
    with store.writer.connect() as connection:
        link: Any = connection.connection.driver_connection  # the setting cannot be changed in a transaction
        if durable and store.dialect == "sqlite":
            link.execute("PRAGMA synchronous=FULL")
        try:
            with connection.begin():
                yield connection
        finally:
            if durable and store.dialect == "sqlite":
                link.execute("PRAGMA synchronous=NORMAL")
