"""`--parse`: the fields of JSON answers as columns."""

import json
from dataclasses import replace

import pytest

from endmark.cli.pages.arms import Answer, Arm
from endmark.cli.pages.table import tabled
from endmark.db.export.fields import with_fields
from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS, Result
from endmark.db.jobs import Job
from endmark.jobs.shapes import Shape, ShapeKind
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import End, EosSource, FinishReason, JobState
from tests.unit.export_batches import batches_of

pytestmark = pytest.mark.unit


def export(answers, columns=("prompt",), schema=None):
    shape = Shape(ShapeKind.JSON_SCHEMA, json.dumps(schema)) if schema else None
    spec = GenerationSpec(model="m", shape=shape)
    job = Job("j", "j", JobState.COMPLETED, 0, columns, len(answers), {0: spec})
    values = dict.fromkeys(COLUMNS)
    rows = [
        Result(row, ["Hi"], tuple({**values, "response": answer}.values())) for row, answer in enumerate(answers)
    ]
    return Export(job, columns, batches_of(rows))


def test_fields_stand_behind_the_input_in_the_order_of_the_schema():
    schema = {"properties": {"b": {}, "a": {}}}
    parsed = with_fields(export(['{"a": 1, "c": [2]}', '{"b": null, "a": "x"}'], ("prompt", "id"), schema))
    assert parsed.columns == ("prompt", "id", "b", "a", "c")
    assert [row.cells for row in parsed.rows()] == [["Hi", None, None, 1, [2]], ["Hi", None, None, "x", None]]


def test_an_answer_that_is_no_object_has_no_fields_and_names_that_are_taken_are_told_apart():
    answers = ["plain", None, "[1]", '{"a": ', '{"prompt": 1, "valid": 2, "row": 3}']
    parsed = with_fields(export(answers))
    assert parsed.columns == ("prompt", "answer_prompt", "answer_valid", "answer_row")
    assert [row.cells for row in parsed.rows()] == [["Hi", None, None, None]] * 4 + [["Hi", 1, 2, 3]]


def test_a_report_shows_the_share_of_valid_answers_where_there_are_shapes():
    answer = Answer(0, "{}", End(FinishReason.EOS, EosSource.FORCED), 2, 1, valid=True)
    shaped, plain, none = (Arm(name, "j", "m", None, 8, 0.0) for name in "abc")
    for item in (answer, replace(answer, valid=False)):
        shaped.count(item)
    plain.count(replace(answer, valid=None))
    none.count(replace(answer, valid=False))
    table = tabled([shaped], None)
    assert table.lines[0][table.headings.index("valid")].value == "50 %"
    assert "valid" not in (plain_table := tabled([plain], None)).headings
    assert "valid" not in plain_table.folded
    assert tabled([none], None).lines[0][tabled([none], None).headings.index("valid")].value == "0 %"
