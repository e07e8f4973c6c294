"""What every command begins with: the settings and the open database."""

from collections.abc import Iterator
from contextlib import contextmanager

from endmark.db.connection import Store, open_store
from endmark.jobs.settings import Settings


@contextmanager
def opened() -> Iterator[tuple[Settings, Store]]:
    """Read the settings and open the database for one command."""
    settings = Settings.load()
    with open_store(settings.database_url) as store:
        yield settings, store
