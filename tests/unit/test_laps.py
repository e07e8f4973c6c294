"""The parts of loading and their seconds, as a line of the log."""

import pytest

from endmark.worker.models import laps
from endmark.worker.models.laps import Laps

pytestmark = pytest.mark.unit


def test_each_part_has_the_time_since_the_one_before(monkeypatch):
    times = iter([10.0, 10.5, 13.0])
    monkeypatch.setattr(laps.time, "monotonic", lambda: next(times))
    clock = Laps()
    clock.end("tokeniser")
    clock.end("files")
    assert str(clock) == "tokeniser 0.5 s, files 2.5 s"
