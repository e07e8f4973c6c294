"""Telling that jobs have ended, beside the work on others: a thread that looks into the ledger every so often."""

from collections.abc import Iterator
from contextlib import contextmanager

from endmark.db.connection import Store
from endmark.db.deliveries import deliver_due
from endmark.jobs.delivery.keys import home_key, secret_key
from endmark.jobs.delivery.sending import send
from endmark.jobs.settings import Settings
from endmark.worker.process.periodic import Periodic

_LOOK = 5.0  # seconds between looks


@contextmanager
def delivering(store: Store, settings: Settings, *, look: float = _LOOK) -> Iterator[None]:
    """Tell what is due, whichever model its job had, while the block runs; what fails is logged and harms nothing.

    Args:
        look: seconds between looks.
    """

    def deliver() -> None:
        # Read each time: the home's key is made by the first command that is to be run.
        keys = [key for key in (home_key(settings.home), secret_key()) if key is not None]
        deliver_due(store, keys, send)

    looking = Periodic("deliveries", look, deliver)
    looking.start()
    try:
        yield
    finally:
        looking.stop()
