"""The schedules of `make cluster` have every kind of fault often enough."""

import pytest

from tests.cluster.schedules import FAULTS, SEEDS, counts

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_every_kind_of_fault_comes_at_least_ten_times(database):
    found = counts(database)
    assert len(found) == 21
    assert min(found.values()) >= 10
    assert len(SEEDS) == 40
    assert found.total() >= 40 * FAULTS
