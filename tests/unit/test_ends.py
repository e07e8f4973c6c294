"""Verdicts from one place: what follows from a finish reason is said in its enum, and derived everywhere else."""

import re
from itertools import product
from pathlib import Path

import pytest

from endmark.cli.pages.arms import Arm
from endmark.cli.pages.table import tabled
from endmark.db.counting import _SUMS, COMPLETE
from endmark.db.schema import COUNTERS
from endmark.jobs.vocabulary import ENDS, Attempt, End, Ending, EosSource, FinishReason, Verdict

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]


def test_every_way_to_end_stands_once():
    """EOS by each of its sources, every other reason alone; names, counters and labels tell them apart."""
    assert [end.source for end in ENDS if end.reason is FinishReason.EOS] == list(EosSource)
    assert [end.reason for end in ENDS if end.reason is not FinishReason.EOS] == list(FinishReason)[1:]
    for values in ([end.name for end in ENDS], [end.label for end in ENDS], [end.told for end in ENDS]):
        assert all(values)
        assert len(set(values)) == len(ENDS)


def test_what_each_reason_means():
    """The table of the design; a new reason must take its place here."""
    assert {reason.value: (reason.has_answer, reason.truncated, reason.openai) for reason in FinishReason} == {
        "eos": (True, False, "stop"),
        "stop_sequence": (True, False, "stop"),
        "repetition": (True, True, "length"),
        "length": (True, True, "length"),
        "error": (False, False, None),
        "cancelled": (False, False, None),
    }


def test_every_row_that_a_worker_stores_is_counted_once():
    counters = [end.counter for end in ENDS if end.counter]
    assert len(set(counters)) == len(counters) == len(ENDS) - 1
    assert set(counters) < set(COUNTERS)
    assert set(counters) < set(_SUMS)
    assert End(FinishReason.CANCELLED).counter is None


@pytest.mark.parametrize("end", ENDS, ids=[end.name for end in ENDS])
def test_a_report_has_a_column_for_every_end_that_happened(end):
    arm = Arm("x", "1", "demo", None, 64, 1.0)
    arm.ends[end] = 1
    table = tabled([arm], None)
    column = table.headings.index(end.label)
    assert table.lines[0][column].value == "100 %"
    usual = {other.label for other in ENDS if other.counter and other.source is not EosSource.UNKNOWN}
    assert usual - {end.label} <= set(table.folded)
    assert end.label not in table.folded


@pytest.mark.parametrize("end", ENDS, ids=[end.name for end in ENDS])
def test_complete_in_python_and_in_sql(end):
    """What counts as complete is written twice, since the counters are made again by the database."""
    import sqlite3

    database = sqlite3.connect(":memory:")
    for ending, valid in product(Ending, (None, False, True)):
        row = (end.reason.value, end.source.value if end.source else None, ending.value, valid)
        found = database.execute(
            f"SELECT {COMPLETE} FROM (SELECT ? AS finish_reason, ? AS eos_source, ? AS ending, ? AS valid) a", row
        ).fetchone()[0]
        attempt = Attempt(0, 1, "", Verdict(end.reason, end.source), 1, 1, ending=ending, valid=valid)
        assert bool(found) == (attempt.complete and end.reason.has_answer)


def test_an_eos_of_before_its_source_was_stored_is_natural():
    assert End.of("eos", None) == Verdict(FinishReason.EOS, EosSource.NATURAL).end
    assert Verdict(FinishReason.LENGTH).end == End(FinishReason.LENGTH)


def test_no_other_file_decides_by_the_names():
    """Sets of reasons were written out in a dozen places; a new reason would have been forgotten in some."""
    name = FinishReason.REPETITION.value  # which is among all sets of what was cut, and means nothing else
    found = [
        str(path.relative_to(ROOT))
        for room in ("jobs", "db", "cli", "worker", "client")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".js", ".html")
        and path != ROOT / "jobs" / "vocabulary.py"
        and "migrations" not in path.parts
        and re.search(rf"""["']{name}["']""", path.read_text(encoding="utf-8"))
    ]
    assert found == []
