"""Whatever happens to hosts, networks, clocks and servers: each row has one result, and the checker is content."""

import signal
import time
import zipfile
from pathlib import Path

import pytest

from tests.cluster.checker import DEATHS
from tests.cluster.cluster import Cluster
from tests.cluster.host import why_no_hosts
from tests.cluster.schedules import FAULTS, SEEDS, SENTINEL_FAULTS, SENTINEL_SEEDS
from tests.cluster.servers import data_folder
from tests.integration.service_fixtures import wait_until

REASON = why_no_hosts()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(REASON is not None, reason=f"no hosts here: {REASON}"),
]
FORMER = Path(__file__).parents[1] / "integration" / "former" / "endmark-0.1.zip"
FORMER_FAULTS = (
    "cut",
    "cut to the servers",
    "cut from the servers",
    "slow and lossy",
    "half-open",
    "frozen",
    "broker killed",
)


@pytest.fixture(scope="module")
def data():
    server = data_folder()
    yield server
    server.remove(running=False)


def go_through(folder, seed, data=None):
    cluster = Cluster(folder, seed, data)
    try:
        jobs = [cluster.submit(80, priority=priority) for priority in (0, 5, 0)]
        cluster.start_workers()
        cluster.wait_for_claims()
        assert cluster.connections() <= 5 * len(cluster.worker_hosts)
        wait_until(lambda: cluster.broker.listeners() >= len(cluster.worker_hosts))
        cluster.run(FAULTS)
        assert len(cluster.faults) == FAULTS
        cluster.wait(jobs)
        assert cluster.wrong() == [], f"{cluster.faults}\n{cluster.log()}"
    finally:
        cluster.close()


def test_the_checker_finds_a_bug_that_is_planted_into_the_processes(tmp_path, data):
    cluster = Cluster(tmp_path, 0, data, bug="counter_drift")
    try:
        jobs = [cluster.submit(32)]
        cluster.start_worker("one")
        cluster.wait(jobs)
        assert any("its rows say" in line for line in cluster.wrong())
    finally:
        cluster.close()


def test_a_second_database_takes_over_without_the_last_second(tmp_path, data):
    """What was stored in it is run again; of two leases under one fence one alone is good.

    On a busy machine the rows were done before the second database was made, and nothing was lost: then again.
    """
    cluster = Cluster(tmp_path, 0, data)
    try:
        jobs = [cluster.submit(80) for _ in range(2)]
        cluster.start_workers()
        cluster.wait_for_claims()
        for _ in range(5):
            begin = time.monotonic()
            cluster.fail_over()
            cluster.faults.append((begin, time.monotonic(), "*", "database fails over"))
            cluster.wait(jobs)
            if cluster.stored_in_vain():
                break
            before = cluster.stored()
            jobs += [cluster.submit(80) for _ in range(2)]
            wait_until(lambda before=before: cluster.stored() > before)
        assert cluster.wrong() == [], cluster.log()
        assert cluster.stored_in_vain() > 0
    finally:
        cluster.close()


@pytest.mark.slow
def test_a_machine_loses_power_and_its_disk_what_it_was_not_told_to_keep(tmp_path):
    """The file is whole, and rows whose answers are gone are run again."""
    cluster = Cluster(tmp_path, 0)
    if not cluster.has_clocks:
        cluster.close()
        pytest.skip("there is no C compiler for the library that notes what is flushed")
    try:
        jobs = [cluster.submit(80) for _ in range(2)]
        cluster.start_workers()
        lost = 0
        for number in (1, 2):
            wait_until(lambda number=number: cluster.stored() > 30 * number)
            begin, before = time.monotonic(), cluster.stored()
            cluster.lose_power()
            lost += before - cluster.stored()
            cluster.start_workers()
            cluster.faults.append((begin, time.monotonic(), "*", "power lost"))
        cluster.wait(jobs)
        assert cluster.wrong() == [], cluster.log()
        assert lost > 0
    finally:
        cluster.close()


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_worker_is_killed_in_the_middle_of_its_drain(tmp_path, data, database):
    """Kubernetes does so 30 s after SIGTERM, whatever `--grace` says: what ran runs elsewhere after the lease."""
    cluster = Cluster(tmp_path, 0, data if database == "postgres" else None)
    try:
        jobs = [cluster.submit(80) for _ in range(3)]
        cluster.start_workers()
        cluster.wait_for_claims()
        begin = time.monotonic()
        cluster.signal("one", signal.SIGTERM)
        log = cluster.hosts["one"].home / "worker.log"
        wait_until(lambda: "draining: rows that run have" in log.read_text())
        cluster.kill("one")
        killed = time.monotonic()
        cluster.faults.append((begin, killed, "one", "killed in its drain"))
        cluster.wait(jobs)
        assert "drained" not in log.read_text()
        assert cluster.wrong() == [], cluster.log()
        assert cluster.done("commit", "two", killed) > 0
    finally:
        cluster.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_jobs_of_three_models(tmp_path, data, seed):
    """Two hosts with a worker of each model, one row of each of which kills its workers and fails alone."""
    models = ("m", "n", "o")
    cluster = Cluster(tmp_path, seed, data, models=models)
    try:
        jobs = [cluster.submit(32, model=models[number % 3], priority=number % 4) for number in range(17)]
        cluster.start_workers()
        cluster.wait_for_claims()
        deadly = [cluster.submit(8, model=model, deadly=3, shard_size=4) for model in models]
        cluster.run(FAULTS)
        cluster.wait([*deadly, *jobs], 170)
        failed = cluster.failed()
        assert sorted((job, row) for job, row, _ in failed) == sorted((job, 3) for job in deadly)
        assert all(error.startswith(DEATHS) for *_, error in failed)
        assert cluster.wrong() == [], f"{cluster.faults}\n{cluster.log()}"
    finally:
        cluster.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_ledger_is_upgraded_under_load_and_a_former_worker_goes_on_beside_a_new_one(
    tmp_path, data, database, seed
):
    with zipfile.ZipFile(FORMER) as package:
        package.extractall(tmp_path / "former")
    cluster = Cluster(tmp_path, seed, data if database == "postgres" else None, former=tmp_path / "former")
    try:
        cluster.start_workers()
        cluster.wait_for_claims()
        cluster.upgrade()
        cluster.signal("one", signal.SIGTERM)
        cluster.start_worker("one")
        wait_until(lambda: cluster.done("started", "one") == 2)
        upgraded = time.monotonic()
        jobs = [*cluster.jobs, *(cluster.submit(80) for _ in range(2))]
        cluster.run(2, kinds=FORMER_FAULTS)
        cluster.wait(jobs)
        assert cluster.wrong() == [], f"{cluster.faults}\n{cluster.log()}"
        assert cluster.done("commit", "one", upgraded) > 0
        assert cluster.done("commit", "two", upgraded) > 0
        assert cluster.done("started", "two") == 1  # the former one, all along
    finally:
        cluster.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SENTINEL_SEEDS)
@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_broker_behind_sentinels_fails_over_between_hosts(tmp_path, data, database, seed):
    """Whatever the workers held to the old master, they take the next message from the new one."""
    cluster = Cluster(tmp_path, seed, data if database == "postgres" else None, sentinels=True)
    try:
        jobs = [cluster.submit(240, priority=priority) for priority in (0, 5, 0)]
        cluster.start_workers()
        cluster.wait_for_claims()
        wait_until(lambda: cluster.broker.listeners() >= len(cluster.worker_hosts))
        cluster.run(FAULTS, kinds=SENTINEL_FAULTS)
        cluster.wait(jobs)
        assert cluster.wrong() == [], f"{cluster.faults}\n{cluster.log()}"
        cluster.broker.wait_until_whole()
        cluster.start_workers()
        wait_until(lambda: cluster.broker.listeners() >= len(cluster.worker_hosts))
        cluster.wait([cluster.submit(16)])
    finally:
        cluster.close()


def test_postgres(tmp_path, data):
    go_through(tmp_path, 0, data)


def test_sqlite(tmp_path):
    go_through(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", sorted({*SEEDS} - {0}))
def test_postgres_many_times(tmp_path, data, seed):
    go_through(tmp_path, seed, data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", sorted({*SEEDS} - {1}))
def test_sqlite_many_times(tmp_path, seed):
    go_through(tmp_path, seed)
