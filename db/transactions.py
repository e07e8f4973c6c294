"""Reading and writing the ledger: whole transactions, done again where that helps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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


def write(store: Store, work: Callable[[Connection], Result], *, repeatable: bool = True) -> Result:
    """Do the work in one transaction; if the connection drops or another writer is in the way, do it again whole.

    Args:
        work: what to do; it may run several times, of which all but the last were rolled back.
        repeatable: whether it may run again even after a commit whose reply was lost, and which may be stored.

    Raises:
        StoreError: the database cannot be used.
    """
    waits = iter(_WAITS)
    while True:
        committing = False
        try:
            with store.writer.begin() as connection:
                result = work(connection)
                committing = True
            return result
        except (DBAPIError, TimeoutError) as error:
            wait = next(waits, None)
            if wait is None or not passes(error) or (committing and not repeatable):
                raise failure(store.url, error) from error
        time.sleep(wait)
