"""Every row exactly one final result, equal to the undisturbed run's, whatever happens to the processes."""

import os
import signal
from pathlib import Path

import pytest
from sqlalchemy import text

from endmark.jobs.engines import EngineChoice
from tests.integration.chaos import LEASE, Chaos
from tests.integration.test_engine_vllm import FAKES
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration

ROWS = 2000
OPTIONS = {"max_new_tokens": 40}
FAULTS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model):
    """The results of a run that nothing happens to."""
    chaos = Chaos(tmp_path_factory.mktemp("calm"), model, seed=0)
    try:
        chaos.wait_for_workers(1)
        return chaos.run(chaos.submit(ROWS, **OPTIONS), count=0)
    finally:
        chaos.close()


def check(folder, model, undisturbed, seed, *, rows=ROWS, **options):
    chaos = Chaos(folder, model, seed, **options)
    try:
        chaos.wait_for_workers()
        job = chaos.submit(rows, **OPTIONS)
        found = chaos.run(job, FAULTS)
        assert [row for row, *_ in found] == list(range(rows)), chaos.done
        assert found == undisturbed, chaos.done
        with chaos.store.reader.connect() as connection:
            finals, most = connection.execute(
                text(
                    "SELECT count(*), max(n) FROM (SELECT count(*) AS n FROM attempts WHERE final GROUP BY row) x"
                )
            ).one()
            counted = connection.execute(text("SELECT sum(succeeded), sum(failed) FROM shards")).one()
        assert (finals, most) == (rows, 1)
        assert tuple(counted) == (rows, 0)
    finally:
        chaos.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_no_row_is_lost_or_done_twice(tmp_path, model, undisturbed, seed):
    check(tmp_path, model, undisturbed, seed)


@pytest.fixture
def server(postgres, postgres_template):
    """A database on Postgres and how its server crashes, as `check` takes them, with a note of each crash."""
    crashes = []

    def restart_database():
        crashes.append(True)
        postgres.restart("immediate")

    url = postgres.create(postgres_template)
    return {"database_url": url, "restart_database": restart_database}, crashes


def test_no_row_is_lost_though_postgres_is_restarted_too(tmp_path, model, undisturbed, server):
    database, crashes = server
    check(tmp_path, model, undisturbed, seed=5, **database)  # its first fault is the crash
    assert crashes


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 23))
def test_no_row_is_lost_or_done_twice_in_many_runs(tmp_path, model, undisturbed, seed):
    check(tmp_path, model, undisturbed, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(23, 43))
def test_no_row_is_lost_on_postgres_in_many_runs(tmp_path, model, undisturbed, server, seed):
    database, _ = server
    check(tmp_path, model, undisturbed, seed, **database)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [51, 52])
def test_no_row_is_lost_or_done_twice_under_vllms_engine(tmp_path, model, monkeypatch, seed):
    """With the stand-in for vLLM, which computes each row anew at every step."""
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    monkeypatch.syspath_prepend(FAKES)
    engine, rows = EngineChoice("vllm"), 600
    calm = Chaos(tmp_path / "calm", model, seed=0, engine=engine)
    try:
        calm.wait_for_workers()
        undisturbed = calm.run(calm.submit(rows, **OPTIONS), count=0)
    finally:
        calm.close()
    check(tmp_path / "chaos", model, undisturbed, seed, rows=rows, engine=engine)


@pytest.mark.parametrize("whole", [False, True], ids=["its-process", "with-its-supervisor"])
def test_the_rows_of_a_killed_worker_are_done_within_two_leases(tmp_path, model, whole):
    """By the ledger's clock; a long lease leaves a busy machine time for what is not waiting.

    A supervisor that lives frees them long before; they are done before the first lease is over.

    The one that is killed is whoever holds rows first: to wait until both do failed where one worker had done the
    whole job before the other looked.
    """
    chaos = Chaos(tmp_path, model, seed=0, lease=2.5 * LEASE)
    try:
        chaos.wait_for_workers()
        job = chaos.submit(800, max_new_tokens=60)
        chaos._wait(lambda: _running(chaos), 60)
        victim, _ = _running(chaos)[0]
        child = int(victim.rpartition(":")[2])
        killed = [_parent(child), child] if whole else [child]
        for pid in killed:
            os.kill(pid, signal.SIGSTOP)
        held = [shard for worker, shard in _running(chaos) if worker == victim]
        (killed_at,) = _asked(chaos, f"SELECT {chaos.store.now}")[0]
        assert held
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        assert len(chaos.run(job, 0)) == 800
        stored_at = dict(_asked(chaos, "SELECT shard, updated_at FROM shards"))
        took = max(stored_at[shard] for shard in held) - killed_at
        assert chaos.lease / 2 < took < 2 * chaos.lease if whole else took < chaos.lease
    finally:
        chaos.close()


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _running(chaos):
    return _asked(chaos, "SELECT worker, shard FROM shards WHERE state = 'running'")


def _asked(chaos, query):
    with chaos.store.reader.connect() as connection:
        return [tuple(item) for item in connection.execute(text(query))]
