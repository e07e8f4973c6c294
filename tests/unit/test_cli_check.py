"""What `endmark check` says of machines that are not here."""

import pytest

from endmark.cli import check
from endmark.jobs.settings import Settings

pytestmark = pytest.mark.unit
GIB = 1 << 30


def gpu(free, capability=(9, 0)):
    return {"name": "NVIDIA H100", "capability": list(capability), "free": free, "total": 80 * GIB}


@pytest.mark.parametrize(
    ("free", "packed", "expanded"),
    [
        (79 * GIB, "up to about 120B", "up to about 32B"),
        (23 * GIB, "up to about 32B", "up to about 8B"),
        (3 * GIB, "below 1B", "below 1B"),
    ],
)
def test_sizes_by_free_memory(free, packed, expanded):
    finding = check._gpu(0, gpu(free))
    assert finding.kind == "ok"
    assert f"models {packed}, at full speed {expanded}" in finding.said


def test_old_cards_are_told():
    assert check._gpu(0, gpu(16 * GIB, (7, 5))).kind == "note"
    old = check._gpu(0, gpu(16 * GIB, (6, 1)))
    assert (old.kind, "7.0 is needed" in old.fix) == ("bad", True)


@pytest.mark.parametrize(
    ("url", "said"),
    [("redis://localhost:1/0", "does not answer"), ("nonsense://x", "unknown scheme")],
)
def test_a_broker_that_cannot_be_used(tmp_path, url, said):
    finding = check._broker(Settings(tmp_path, "sqlite://", url))
    assert finding.kind == "bad"
    assert said in finding.said
    assert finding.fix
