"""Rows that a Python program hands over."""

import datetime
import json
from decimal import Decimal

import pytest

from endmark.jobs.datasets import checked_rows, settle
from endmark.jobs.datasets.rows import RowsDataset
from endmark.jobs.errors import DatasetError, Problem, UsageError
from endmark.jobs.spec import GenerationSpec

pytestmark = pytest.mark.unit


def read(rows, spec=None):
    """Return the columns and the cells of all rows, checked as a job's are."""
    with RowsDataset(rows) as dataset:
        spec = settle(spec or GenerationSpec(), dataset, skip_bad_rows=False)
        cells = [json.loads(row.cells) for batch in checked_rows(dataset, spec) for row in batch]
        return dataset.columns, cells


def test_texts_dictionaries_and_chats_may_stand_together():
    turns = [{"role": "user", "content": "b"}]
    columns, cells = read(iter(["a", turns, {"id": 7, "prompt": "c"}]))
    assert columns == ["prompt", "messages", "id"]
    assert cells == [["a"], [None, turns], ["c", None, 7]]


def test_values_that_json_does_not_have():
    day = datetime.date(2026, 1, 2)
    _, cells = read([{"prompt": "a", "day": day, "price": Decimal("1.50"), "share": float("nan"), "list": (1, 2)}])
    assert cells == [["a", "2026-01-02", "1.50", None, [1, 2]]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (7, "is of the type int"),
        (b"a", "is of the type bytes"),
        ({"prompt": "a", "x": b"y"}, "has bytes"),
        ({"prompt": "a", "x": float("inf")}, "an infinite number"),
        ({"prompt": "a", 3: "x"}, "has the key 3"),
        ({"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": "a\0"}, "NUL"),
        ({"prompt": " "}, "is empty"),
        ("", "is empty"),
    ],
)
def test_a_bad_row_is_named_by_its_number(row, reason):
    with pytest.raises(DatasetError) as caught:
        read(["good", row, "good"])
    (problem,) = caught.value.problems
    assert (problem.source, problem.line) == ("row", 2)
    assert reason in problem.reason


def test_a_value_nested_without_end_is_a_problem_and_no_crash():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    dataset = RowsDataset([{"prompt": "a", "x": nested}])
    assert list(dataset) == [Problem("row", 1, "is nested too deeply")]


@pytest.mark.parametrize("rows", ["a prompt", b"bytes", {"prompt": "a"}, 3, None])
def test_what_holds_no_rows_is_refused(rows):
    """A text is an iterable of characters: each would have become a row."""
    with pytest.raises(UsageError):
        RowsDataset(rows)


def test_no_rows_are_an_error():
    """They were told as "row: has no rows", to be corrected or left out."""
    with pytest.raises(DatasetError, match=r"^rows: there are none$") as caught:
        RowsDataset([])
    assert caught.value.hint == "give at least one prompt"


def test_the_first_row_is_read_at_once_and_the_others_when_their_turn_comes():
    taken = []

    def rows():
        for number in range(3):
            taken.append(number)
            yield f"prompt {number}"

    dataset = RowsDataset(rows())
    assert (dataset.columns, taken) == (["prompt"], [0])
    assert [cells for _, cells in dataset] == [["prompt 0"], ["prompt 1"], ["prompt 2"]]


def test_frames():
    """Both kinds, with what each uses for a missing value."""
    import pandas
    import polars

    data = {"prompt": ["a", "b"], "seed": [1, None], "when": [datetime.datetime(2026, 1, 2), None]}
    expected = [["a", 1, "2026-01-02 00:00:00"], ["b", None, None]]
    for frame in (pandas.DataFrame(data), polars.DataFrame(data)):
        columns, cells = read(frame, GenerationSpec(row_options=False))
        assert columns == ["prompt", "seed", "when"]
        assert cells == expected


def test_texts_of_other_types_are_texts():
    """Prompts in a numpy array were refused as no text."""
    numpy = pytest.importorskip("numpy")
    rows = [*numpy.array(["a", "b"]), {"prompt": numpy.str_("c")}]
    assert read(rows) == (["prompt"], [["a"], ["b"], ["c"]])


def test_two_columns_of_one_name_are_refused():
    """Of pandas' frame with such columns the last one was taken, in silence."""
    pandas = pytest.importorskip("pandas")
    with pytest.raises(UsageError, match="the data frame has the column `prompt` twice"):
        RowsDataset(pandas.DataFrame([["a", "b"]], columns=["prompt", "prompt"]))
    with pytest.raises(UsageError, match="the data frame has the column `0` twice"):
        RowsDataset(pandas.DataFrame([["a", "b"]], columns=[0, "0"]))


def test_a_frame_that_waits_to_be_collected_is_told_as_one():
    polars = pytest.importorskip("polars")
    with pytest.raises(UsageError) as caught:
        RowsDataset(polars.LazyFrame({"prompt": ["a"]}))
    assert "collect()" in caught.value.hint
