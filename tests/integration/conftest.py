"""The ledger on both databases: every test that takes `store` or `database_url` runs on SQLite and on Postgres."""

import signal

import pytest

from endmark.db.connection import open_store, upgrade
from tests.integration.postgres_server import PostgresServer

# What a shell runs in its background ignores Ctrl-C, and so would all that the tests start: three of them failed
# whenever the suite ran so.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres():
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def postgres_template(postgres):
    """The name of a database with Endmark's tables, to be copied."""
    url = postgres.create()
    upgrade(url)
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request):
    return request.param


@pytest.fixture
def database_url(dialect, tmp_path, request):
    """A database with tables and nothing in them."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return request.getfixturevalue("postgres").create(request.getfixturevalue("postgres_template"))


@pytest.fixture
def empty_database_url(dialect, tmp_path, request):
    """A database without tables."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("postgres").create()


@pytest.fixture
def store(database_url):
    with open_store(database_url) as opened:
        yield opened


@pytest.fixture
def start(store):
    """Start services over a scripted engine; drain at the end those that still run."""
    from tests.integration.service_fixtures import Worker

    started = []

    def make(**options):
        started.append(Worker(store, **options))
        return started[-1]

    yield make
    for worker in started:
        if not worker.service.drained:
            worker.drain(0)
