"""Cells of a CSV export: byte for byte what Python's own csv module writes, and read back as they were."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endmark.db.export.as_csv import quoted

pytestmark = pytest.mark.unit

_cells = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=5
)


@given(_cells | st.lists(st.text('",\r\n a'), min_size=2, max_size=5))
def test_a_line_is_that_of_the_csv_module(cells):
    theirs = io.StringIO()
    csv.writer(theirs, lineterminator="\r\n").writerow(cells)
    ours = ",".join(map(quoted, cells)) + "\r\n"
    assert ours == theirs.getvalue()
    assert next(csv.reader(io.StringIO(ours, newline=""), strict=True)) == cells
