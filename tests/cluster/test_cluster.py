"""Whatever happens to hosts, networks, clocks and servers: each row has one result, and the checker is content."""

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.host import why_no_hosts
from tests.cluster.servers import data_folder

REASON = why_no_hosts()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(REASON is not None, reason=f"no hosts here: {REASON}"),
]
FAULTS = 4


@pytest.fixture(scope="module")
def data():
    server = data_folder()
    yield server
    server.remove(running=False)


def go_through(folder, seed, data=None):
    cluster = Cluster(folder, seed, data)
    try:
        jobs = [cluster.submit(80, priority=priority) for priority in (0, 5, 0)]
        for host in cluster.worker_hosts:
            cluster.start_worker(host)
        cluster.wait_for_claims()
        cluster.run(FAULTS)
        assert len(cluster.faults) == FAULTS
        cluster.wait(jobs)
        assert cluster.wrong() == [], f"{cluster.faults}\n{cluster.log()}"
    finally:
        cluster.close()


@pytest.mark.parametrize("seed", range(3))
def test_postgres(tmp_path, data, seed):
    go_through(tmp_path, seed, data)


@pytest.mark.parametrize("seed", range(2))
def test_sqlite(tmp_path, seed):
    go_through(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 40))
def test_postgres_many_times(tmp_path, data, seed):
    go_through(tmp_path, seed, data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 40))
def test_sqlite_many_times(tmp_path, seed):
    go_through(tmp_path, seed)
