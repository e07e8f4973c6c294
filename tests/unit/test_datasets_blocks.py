"""Rows of a CSV that are read and checked many at once: the same as one by one, and as told."""

import csv
import json
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endmark.jobs.datasets import base, checked_rows, open_dataset
from endmark.jobs.datasets import csv as blocks
from endmark.jobs.datasets.base import Block, Source
from endmark.jobs.datasets.csv import CsvDataset
from endmark.jobs.datasets.seen import SeenIds
from endmark.jobs.errors import Problem
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.spec import GenerationSpec

pytestmark = pytest.mark.unit

PIECES = [b"a", b"b", b",", b'"', b"\n", b"\r\n", b"\r", b"\0", b"\xff", "é".encode(), b'"x\ny"', b"\n\n"]


def one_by_one(data):
    """Read a CSV as slowly and plainly as can be: its rows with their first lines, and the lines they stand in."""
    lines = (b"p,q\n" + data).decode("utf-8", "surrogateescape").splitlines(keepends=True)
    taken = []

    def feed():
        for number, line in enumerate(lines, 1):
            taken.append((number, line))
            yield line.replace("\0", "")

    reader, found = csv.reader(feed(), strict=True), []
    next(reader)
    while True:
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return found
        except csv.Error:
            cells = None
        if cells == []:
            continue
        raw = "".join(line for _, line in taken)
        bad = [number for number, line in taken if "\0" in line or any(sign >= "\udc80" for sign in line)]
        usable = cells is not None and len(cells) == 2 and not bad
        line = bad[0] if bad and cells is not None else taken[0][0]
        found.append((line, cells if usable else None, raw))


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.sampled_from([1, 2, 7, 2000]))
def test_rows_in_blocks_are_those_that_are_read_one_by_one(data, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_AT_ONCE", at_once)
        patch.setattr(base, "_CHUNK", at_once)
        dataset = CsvDataset(Source("f", BytesIO(b"p,q\n" + data)))
        found = []
        for item in dataset:
            bad = isinstance(item, Problem)
            found.append((item.line if bad else item[0], None if bad else list(item[1]), dataset.raw))
    assert found == one_by_one(data)


def test_plain_rows_come_in_blocks_and_others_one_by_one(tmp_path):
    path = tmp_path / "data.csv"
    good = "".join(f'{row},"two\nlines"\n' for row in range(blocks._AT_ONCE))
    path.write_text("id,prompt\n" + good + "x\n" + "\n" + good)
    with open_dataset(str(path)) as dataset:
        first, *others = dataset.blocks()
    assert isinstance(first, Block)
    assert (first.begins[:2], first.ends[:2], first.rows[1]) == ([2, 4], [3, 5], ["1", "two\nlines"])
    assert [item.line for item in others if isinstance(item, Problem)] == [4002]
    assert others[1] == (4004, ["0", "two\nlines"])


def test_a_bad_row_among_good_ones_is_told_as_it_stands(tmp_path):
    path = tmp_path / "data.csv"
    good = "".join(f"{row},ok\n" for row in range(1500))
    path.write_text("custom_id,prompt\n" + good + 'x,"\n "\n7,again\n' + good.replace(",", "b,"))
    told = []
    with open_dataset(str(path)) as dataset:
        batches = list(
            checked_rows(dataset, GenerationSpec(), on_bad=lambda problem, raw: told.append((str(problem), raw)))
        )
    assert told == [
        (f"{path}:1502: column `prompt` is empty", 'x,"\n "\n'),
        (f"{path}:1504: column `custom_id`: `7` stands in an earlier row", "7,again\n"),
    ]
    assert [json.loads(row.cells)[0] for batch in batches for row in batch] == [
        f"{row}{mark}" for mark in ("", "b") for row in range(1500)
    ]


def test_ids_that_come_again_are_counted_as_before(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("id,prompt\n" + "".join(f"{row % 3000},x\n" for row in range(4100)) + ",x\n,x\n")
    with open_dataset(str(path)) as dataset:
        assert sum(map(len, checked_rows(dataset, GenerationSpec()))) == 4102
        assert dataset.notes.texts() == [
            "column `id` has values that stand in an earlier row (1,100 rows, first in line 3,002)"
        ]


@given(st.lists(st.lists(st.text("abcé\\\"'", max_size=2), max_size=6), max_size=8))
def test_ids_are_added_all_or_none(groups):
    seen, known = SeenIds(), set()
    for group in groups:
        fresh = len(set(group)) == len(group) and not known & set(group)
        assert seen.add_all(group) == fresh
        if fresh:
            known |= set(group)
    for text in {text for group in groups for text in group}:
        assert seen.add(text) == (text not in known)
    seen.close()


@pytest.mark.parametrize(
    ("columns", "spec", "rows", "at_once"),
    [
        ("id prompt", {}, [["1", "a"], ["2", " b"]], True),
        ("id prompt", {}, [["1", "a"], ["2", " "]], False),
        ("id prompt", {}, [["1", "a"], ["2", ""]], False),
        ("id text", {"template": "{id}: {text}"}, [["1", "a"], ["2", "b"]], True),
        ("id text", {"template": "{text}"}, [["1", "a"], ["2", " "]], False),
        ("prompt seed", {}, [["a", ""]], False),
        ("prompt seed", {"row_options": False}, [["a", "x"]], True),
        ("messages", {}, [["[]"]], False),
    ],
)
def test_prompts_of_many_rows_are_those_of_each(columns, spec, rows, at_once):
    plan = PromptPlan(columns.split(), GenerationSpec(**spec))
    found = plan.prompts(rows)
    assert (found is not None) == at_once
    if at_once:
        assert list(found) == [plan.read(cells).prompt for cells in rows]
        assert not any(plan.read(cells).overrides for cells in rows)
