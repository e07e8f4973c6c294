"""The fleet of benchmarks/fleet.py in virtual time: processors and jobs' rows are waited for, and nothing else."""

import pytest

from benchmarks.fleet import Cost, VirtualServer, calls_of, run, with_commit

pytestmark = pytest.mark.unit
EVERY, _ = calls_of(30.0)


def worked(server, workers=200, *, jobs=1, cores=4, trip=0.0):
    found = VirtualServer(dict.fromkeys(EVERY, Cost(server, 3.0)), cores, trip)
    run(found, EVERY, workers, jobs=jobs, seconds=60.0)
    return found


def test_what_costs_nothing_waits_for_nothing():
    found = worked(0.0)
    assert found.spent == 0
    assert all(max(times) == 0 for times in found.waits.values())


def test_a_server_is_as_busy_as_its_calls_take_and_more_than_it_can_do_waits_ever_longer():
    calls = sum(200 / gap for gap in EVERY.values())  # a second
    assert worked(0.001).spent / 60 == pytest.approx(calls * 0.001, rel=0.05)
    assert max(worked(0.001).waits["commit"]) < 0.1
    assert max(worked(2 * 4 / calls).waits["commit"]) > 10


def test_claims_of_one_job_wait_for_each_other_and_those_of_many_do_not():
    """Round trips of one hundred milliseconds are waited for while the job's row is held."""
    one, many = (worked(0.0, jobs=jobs, trip=0.1).waits for jobs in (1, 200))
    assert max(one["claim"]) > 0.3
    assert max(one["commit"]) == 0
    assert sum(many["claim"]) < sum(one["claim"]) / 10


def test_a_commit_costs_by_its_rows():
    costs = {"commit of 16": Cost(0.001, 2.0), "commit of 256": Cost(0.0034, 2.0)}
    assert with_commit(costs, 32)["commit"].server == pytest.approx(0.00116)
