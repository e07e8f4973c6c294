"""The ledger behind PgBouncer, which hands out its few connections by transaction."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from endmark.db.connection import open_store, upgrade
from endmark.db.export import stream_results
from endmark.db.progress import job_status
from endmark.db.transactions import write
from tests.integration.pgbouncer import CONNECTIONS
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import answer_all, rows_of

pytestmark = pytest.mark.integration
WORKERS = 6
ROWS = 4000


@pytest.fixture
def pooled_url(postgres, pooler):
    url = pooler.url(postgres.create())
    upgrade(url)
    return url


def test_more_workers_than_connections_answer_a_job(pooled_url):
    """psycopg prepares what runs often, in the server's session of that moment; the next one knows nothing of it:
    `prepared statement "_pg3_0" already exists`.
    """
    begun = threading.Barrier(WORKERS)

    def work(_):
        with open_store(pooled_url) as store:
            begun.wait(60)
            return len(answer_all(store))

    with open_store(pooled_url) as store:
        job = submit(store, [f"prompt {row}" for row in range(ROWS)], shard_size=40)
        with ThreadPoolExecutor(WORKERS) as workers:
            answered = list(workers.map(work, range(WORKERS)))
        assert sum(answered) == ROWS
        assert sum(found > 0 for found in answered) > 1
        assert [result.row for result in stream_results(store, job)] == list(range(ROWS))
        assert job_status(store, job).state.is_final
        (busy,) = rows_of(store, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        assert busy[0] <= CONNECTIONS


def test_a_frozen_transaction_is_ended_and_other_programs_are_left_alone(pooled_url):
    """The limit was set for the session, which behind a pooler is anybody's next."""
    with open_store(pooled_url) as store:
        for _ in range(8):
            shown = write(
                store, lambda link: link.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
            )
            assert shown == "15s"
            assert rows_of(store, "SHOW idle_in_transaction_session_timeout") == [("0",)]


def test_without_a_pooler_the_limit_is_of_sessions_that_write(postgres, postgres_template):
    with open_store(postgres.create(postgres_template)) as store:
        for engine, limit in ((store.writer, "15s"), (store.reader, "0")):
            with engine.connect() as link:
                shown = link.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar()
                assert shown == limit
