"""Waiting some minutes for a database or broker that is away: it may be restarting."""

import time
from collections.abc import Callable
from typing import TypeVar

from endmark.jobs.errors import BrokerError, SchemaError, StoreError

_AWAY = 180.0  # seconds that it may be away
Result = TypeVar("Result")


def patiently(
    reach: Callable[[], Result], say: Callable[[StoreError | BrokerError], None], *, pause: float
) -> Result:
    """Return what `reach` gives, tried again for as long as a server may be away.

    Args:
        reach: asks the server.
        say: called with the error after each attempt that is followed by another.
        pause: seconds between attempts.

    Raises:
        StoreError: the database stays away, or its schema is another one, which waiting does not mend.
        BrokerError: the broker stays away.
    """
    deadline = time.monotonic() + _AWAY
    while True:
        try:
            return reach()
        except SchemaError:
            raise
        except (BrokerError, StoreError) as error:
            if time.monotonic() > deadline:
                raise
            say(error)
        time.sleep(pause)
