"""Shapes as users write them: how many labels there may be, and how much text."""

import json

import pytest

from endmark.jobs.errors import SpecError
from endmark.jobs.shapes import ShapeKind, read_shape
from endmark.jobs.shapes.shape import MOST_CHARACTERS, MOST_CHOICES

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("count", [2, MOST_CHOICES])
def test_as_many_labels_as_there_may_be_are_taken(count):
    labels = tuple(map(str, range(count)))
    assert read_shape(ShapeKind.CHOICES, ",".join(labels), "here").choices == labels


@pytest.mark.parametrize("count", [1, MOST_CHOICES + 1])
def test_one_label_less_or_more_is_refused(count):
    with pytest.raises(SpecError, match=f"here has {count:,} label"):
        read_shape(ShapeKind.CHOICES, json.dumps([*map(str, range(count))]), "here")


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_whole_number_is_kept_where_floating_point_holds_it(sign):
    """Of a bound that is rounded, the answer would be kept to another number than it is judged by."""
    pytest.importorskip("llguidance")
    largest = f'{{"const": {sign}{2**53}}}'
    assert read_shape(ShapeKind.JSON_SCHEMA, largest, "here").text == largest
    with pytest.raises(SpecError, match="is too large"):
        read_shape(ShapeKind.JSON_SCHEMA, f'{{"const": {sign}{2**53 + 1}}}', "here")


def test_a_shape_may_have_as_many_characters_as_are_read_and_no_more():
    text = '{"const": "' + "x" * (MOST_CHARACTERS - 13) + '"}'
    assert read_shape(ShapeKind.JSON_SCHEMA, text, "here").text == text
    with pytest.raises(SpecError, match="1,000,001 characters are too many"):
        read_shape(ShapeKind.JSON_SCHEMA, text + " ", "here")
