"""What a worker makes of a database that does not answer: one kind of error, and another try later."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, TimeoutError

from db.connection import Store, unreachable
from jobs.errors import StoreError


@contextmanager
def reachable(store: Store) -> Iterator[None]:
    """Turn what the database's driver raises into a `StoreError`."""
    try:
        yield
    except DBAPIError as error:
        raise unreachable(store, error) from error
    except TimeoutError as error:  # of the connection pool
        raise StoreError(f"the database cannot be used: {error}") from error


def through(store: Store, action: Callable[[], None]) -> Callable[[], None]:
    """Return the action with its database errors turned into `StoreError`."""

    def guarded() -> None:
        with reachable(store):
            action()

    return guarded
