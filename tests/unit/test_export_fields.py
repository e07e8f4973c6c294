"""`--parse`: the fields of JSON answers as columns."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from endmark.cli.beforehand import check_fields
from endmark.cli.main import endmark
from endmark.cli.pages.arms import Answer, Arm
from endmark.cli.pages.table import tabled
from endmark.cli.submission import submit_rows
from endmark.db.connection import open_store
from endmark.db.export.fields import have_fields, with_fields
from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS, Result
from endmark.db.jobs import Job
from endmark.jobs.datasets.rows import RowsDataset
from endmark.jobs.errors import UsageError
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


def test_an_export_without_any_field_is_refused_where_none_was_asked_for():
    """`--parse` was taken in silence, and the file had no more columns than without it."""
    with pytest.raises(UsageError, match="no answer of job j is a JSON object") as caught:
        with_fields(export(["plain", None, "[1]"]))
    assert "--json-schema" in caught.value.hint
    assert with_fields(export(["plain"], schema={"type": "object"})).columns == ("prompt",)
    assert with_fields(export([None], ("prompt", "grammar"))).columns == ("prompt", "grammar")


@pytest.mark.parametrize(
    ("shape", "columns", "found"),
    [
        (None, ("prompt",), False),
        (None, ("prompt", "json_schema"), True),
        (None, ("prompt", "choices"), False),
        (Shape(ShapeKind.CHOICES, '["a", "b"]'), ("prompt",), False),
        (Shape(ShapeKind.REGEX, r"\{.*\}"), ("prompt",), True),
    ],
)
def test_who_may_have_fields(shape, columns, found):
    spec = GenerationSpec(shape=shape)
    assert have_fields(spec, columns) is found
    assert have_fields(replace(spec, row_options=False), columns) is (found and shape is not None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "prompt,choices\nHi,\n"),
        ("x.jsonl", '{"prompt": "Hi"}\n{"prompt": "Hi", "note": "x"}\n'),
        ("x.txt", "Hi\n"),
    ],
)
def test_a_run_that_asks_for_no_fields_is_refused_before_a_job_is_stored(name, text, tmp_path, monkeypatch):
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    (tmp_path / name).write_text(text)
    done = CliRunner().invoke(endmark, ["run", str(tmp_path / name), "-o", str(tmp_path / "out.csv"), "--parse"])
    assert isinstance(done.exception, UsageError), done.output
    assert "nothing asks for JSON" in str(done.exception)
    listed = CliRunner().invoke(endmark, ["status", "--json"])
    assert json.loads(listed.stdout) == []


def test_a_row_further_down_may_be_the_one_that_asks_for_fields(tmp_path):
    spec = GenerationSpec()
    rows = [{"prompt": "Hi"}] * 3 + [{"prompt": "Hi", "regex": "[a]"}]
    store = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    try:
        with RowsDataset(rows) as dataset:
            assert submit_rows(store, dataset, spec, name="x", check_columns=check_fields(spec)).total == 4
    finally:
        store.close()


def test_parse_without_a_file_is_refused():
    done = CliRunner().invoke(endmark, ["resume", "latest", "--parse"])
    assert "`--parse` is about the file of results" in str(done.exception)
