"""A report's labels, read from the ledger: those that were scored, and those that were drawn."""

import pytest

from endmark.cli.pages.gathering import build_report, figures
from endmark.db.attempts import commit
from endmark.jobs.shapes import Shape, ShapeKind
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import outcome, take

pytestmark = pytest.mark.integration


def test_labels_are_told_of_a_job_with_choices(store):
    shape = Shape(ShapeKind.CHOICES, '["yes", "no"]')
    job = submit(store, ["a", "b", "c", "d"], shape=shape)
    scored = {"valid": True, "choice_probs": {"yes": 0.6, "no": 0.4}}
    rows = [
        outcome(0, text="yes", **scored),
        outcome(1, text="no", valid=True),
        outcome(2, "length", text="n", valid=False),
    ]
    commit(store, take(store), rows)
    (told,) = figures(build_report(store, {"baseline": job}, title="Labels"))["jobs"]
    assert [(item["label"], item["rows"], item["expected"]) for item in told["labels"]] == [
        ("no", 1, pytest.approx(0.4)),
        ("yes", 1, pytest.approx(0.6)),
    ]
    assert told["least_certain"] == [{"row": 0, "prompt": "a", "choice_probs": {"yes": 0.6, "no": 0.4}}]
    (plain,) = figures(build_report(store, {"x": submit(store, ["yes"])}, title="None"))["jobs"]
    assert plain["labels"] == []
