"""Labels in a report: how many rows have each, how many should have, and the rows that deserve a look."""

import random

import pytest

from endmark.cli.pages.arms import Arm
from endmark.cli.pages.gathering import figures, table
from endmark.cli.pages.labels import Labels
from endmark.cli.pages.report import Report, write_page
from tests.unit.test_reporting import HOSTILE, answer

pytestmark = pytest.mark.unit


def counted(rows):
    """Labels of rows, each given by its probabilities, or by the label alone where it was drawn."""
    labels = Labels()
    for row, probs in enumerate(rows):
        if isinstance(probs, str):
            labels.count(row, probs, None, lambda: "never asked for")
        else:
            labels.count(row, max(probs, key=probs.get), probs, lambda row=row: f"prompt {row}")
    return labels


def test_labels_are_counted_beside_what_their_probabilities_add_up_to():
    labels = counted([{"a": 0.9, "b": 0.1}, {"a": 0.6, "b": 0.4}, {"a": 0.2, "b": 0.8}, {"a": 0.7, "c": 0.3}])
    told = {item.label: (item.rows, item.share.value, item.expected, item.mean_prob) for item in labels.counts}
    assert list(told) == ["a", "b", "c"]
    assert told["a"] == (3, 0.75, pytest.approx(2.4), pytest.approx(2.2 / 3))
    assert told["b"] == (1, 0.25, pytest.approx(1.3), pytest.approx(0.8))
    assert told["c"] == (0, 0.0, pytest.approx(0.3), None)
    assert [(item.row, item.ranked[0]) for item in labels.unsure] == [
        (1, ("a", 0.6)),
        (3, ("a", 0.7)),
        (2, ("b", 0.8)),
        (0, ("a", 0.9)),
    ]


def test_drawn_labels_are_counted_without_probabilities():
    labels = counted(["a", "b", "a"])
    assert [(item.label, item.rows, item.expected, item.mean_prob) for item in labels.counts] == [
        ("a", 2, None, None),
        ("b", 1, None, None),
    ]
    assert labels.unsure == []
    assert not counted([])


def test_the_least_certain_rows_are_kept_and_no_others_prompts_are_made():
    rng = random.Random(1)
    rows = [{"a": (prob := rng.uniform(0.5, 1)), "b": 1 - prob} for _ in range(500)]
    expected = sorted(range(500), key=lambda row: rows[row]["a"])[:20]
    assert [item.row for item in counted(rows).unsure] == expected
    same = counted([{"a": 0.5, "b": 0.5}] * 50)
    assert [item.row for item in same.unsure] == list(range(20))  # of equal ones the first


def test_the_page_the_terminal_and_the_figures_show_them():
    arm = Arm("baseline", "job", "demo", None, 64, 100.0)
    for row in range(3):
        arm.count(answer(row, valid=True))
    arm.labels = counted([{"a": 0.9, HOSTILE: 0.1}, {"a": 0.4, HOSTILE: 0.6}, {"a": 0.8, HOSTILE: 0.2}])
    report = Report("Labels", (arm,), (), 3)
    page = write_page(report)
    assert "Least certain rows" in page
    assert '<td class="text" data-label="prompt">prompt 1</td>' in page
    assert HOSTILE not in page
    assert "a: 2 (66.7 %), 2.1 expected" in table(report)
    (job,) = figures(report)["jobs"]
    assert [(item["label"], item["rows"]) for item in job["labels"]] == [("a", 2), (HOSTILE, 1)]
    assert job["least_certain"][0] == {"row": 1, "prompt": "prompt 1", "choice_probs": {HOSTILE: 0.6, "a": 0.4}}
    bare = Arm("baseline", "job", "demo", None, 64, 100.0)
    bare.count(answer(0))
    assert "Least certain" not in write_page(Report("None", (bare,), (), 1))
    assert figures(Report("None", (bare,), (), 1))["jobs"][0]["labels"] == []
