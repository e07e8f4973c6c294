"""Cells of a CSV export: byte for byte what Python's own csv module writes, and read back as they were."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endmark.db.export.as_csv import _lines, _text
from endmark.jobs.strict_json import strict_json

pytestmark = pytest.mark.unit

_cells = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=5
)


def line(cells, delimiter=","):
    """A line of the cells, in company of another, so that they differ within their columns."""
    columns = [[cell, f"{cell}x"] for cell in cells]
    return _lines(columns, delimiter, excel_safe=False).removesuffix(
        _lines([[column[1]] for column in columns], delimiter, excel_safe=False)
    )


@given(_cells | st.lists(st.text('",\r\n a'), min_size=2, max_size=5))
def test_a_line_is_that_of_the_csv_module(cells):
    theirs = io.StringIO()
    csv.writer(theirs, lineterminator="\r\n").writerow(cells)
    ours = line(cells)
    assert ours == theirs.getvalue()
    assert next(csv.reader(io.StringIO(ours, newline=""), strict=True)) == cells


_values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('",\r\n a=-') | st.lists(st.integers(0, 1))
)
_columns = st.integers(2, 6).flatmap(
    lambda rows: st.lists(
        st.lists(_values, min_size=rows, max_size=rows) | _values.map(lambda value: [value] * rows), min_size=2
    )
)


@given(_columns)
def test_lines_by_columns_are_those_of_the_csv_module_cell_by_cell(columns):
    """Equal values that are different texts, such as 1, 1.0 and true or 0.0 and -0.0, stay so within a column."""
    theirs = io.StringIO()
    csv.writer(theirs, lineterminator="\r\n").writerows([map(_text, row) for row in zip(*columns, strict=True)])
    assert _lines(columns, ",", excel_safe=False) == theirs.getvalue()


@given(_cells | st.lists(st.text('",\t\r\n a'), min_size=2, max_size=5))
def test_a_line_with_tabs_is_read_back_as_it_was(cells):
    ours = line(cells, "\t")
    assert next(csv.reader(io.StringIO(ours, newline=""), delimiter="\t", strict=True)) == cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1.5, float("nan")], "é": "\n"}, '{"a": [1.5, null], "é": "\\n"}'),
        ([float("inf"), -float("inf"), True, None], "[null, null, true, null]"),
    ],
)
def test_json_has_no_number_that_is_none(value, text):
    """An infinite cell, taken in by an older version, was written as `Infinity`, which no other program reads."""
    assert strict_json(value) == text
