"""`endmark status` says what is in the way: the database, the broker, a silent host, a wrong clock."""

import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import text

from endmark.db.workers import report_worker
from endmark.jobs.progress import WorkerReport
from tests.cluster.cluster import Cluster
from tests.cluster.host import COMPILER, why_no_hosts
from tests.cluster.servers import data_folder

REASON = why_no_hosts()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(REASON is not None, reason=f"no hosts here: {REASON}")]
ENDMARK = Path(sys.executable).with_name("endmark")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    server = data_folder()
    made = Cluster(tmp_path_factory.mktemp("cluster"), 0, server)
    made.submit(4)
    yield made
    made.close()
    server.remove(running=False)


def status(cluster):
    """What the command says on standard error, on the first worker's host, and its exit code."""
    asked = cluster.hosts["one"].start(
        [ENDMARK, "status"],
        env=cluster.environment("one"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, said = asked.communicate(timeout=60)
    return said, asked.returncode


def test_nothing_is_said_where_nothing_is_in_the_way(cluster):
    said, code = status(cluster)
    assert code == 0
    assert all(words not in said for words in ("clock", "broker", "heard of", "cannot be used"))


@pytest.mark.skipif(COMPILER is None, reason="a clock needs a C compiler")
@pytest.mark.parametrize(("seconds", "words"), [(3600, "behind"), (-3600, "ahead of")])
def test_a_clock_that_is_an_hour_off(cluster, seconds, words):
    cluster.hosts["one"].set_clock(seconds)
    try:
        said, code = status(cluster)
    finally:
        cluster.hosts["one"].set_clock(0)
    assert code == 0
    assert f"{words} this host's: one of the two is wrong" in said
    assert "clock is 59:59" in said or "clock is 1:00:0" in said


def test_a_host_that_is_silent_for_40_s(cluster):
    report_worker(cluster.store, WorkerReport("two:17", "cpu", "m", None, "packed", 1.0))
    with cluster.store.writer.begin() as connection:
        connection.execute(text("UPDATE workers SET heartbeat = heartbeat - 40"))
    said, _ = status(cluster)
    with cluster.store.writer.begin() as connection:
        connection.execute(text("DELETE FROM workers"))
    assert "worker two:17 has not been heard of for 4" in said


def test_a_broker_that_is_away(cluster):
    cluster.broker.crash()
    try:
        said, code = status(cluster)
    finally:
        cluster.broker.start()
    assert code == 0
    assert "the broker does not answer" in said


@pytest.mark.parametrize(
    ("policy", "words"),
    [("noeviction", "it refuses messages"), ("allkeys-lru", "it may drop messages (allkeys-lru)")],
)
def test_a_broker_whose_memory_is_full(cluster, policy, words):
    """It answers PING all the same, and `status` said that all is well."""
    cluster.broker.configure("maxmemory-policy", policy)
    cluster.broker.configure("maxmemory", "1")
    try:
        said, code = status(cluster)
    finally:
        cluster.broker.configure("maxmemory", "0")
    assert code == 0
    assert f"{words}, as its memory is full" in said
    assert "workers poll the database" in said


def test_a_database_behind_a_dead_network(cluster):
    for link in chain(*cluster.links("one")):
        link.cut = True
    try:
        said, code = status(cluster)
    finally:
        cluster.wire.heal()
    assert code != 0
    assert "cannot be used" in said
    assert "timeout" in said
