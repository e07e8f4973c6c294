"""Expressions that Python and llguidance read otherwise: answers were kept to another language than was meant."""

import json

import pytest

from endmark.jobs.errors import SpecError
from endmark.jobs.shapes import ShapeKind, read_shape
from endmark.jobs.shapes.dialect import ambiguity

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"[[a-z]\[a-z]", "a `[` in brackets, at character 2"),
        (r"[^]a[]", "a `[` in brackets, at character 5"),
        (r"[a&&b]", "`&&` in brackets, at character 3"),
        (r"[a-d--c]", "`--` in brackets, at character 5"),
        (r"(?i)\u00e9.a{2}+", "the possessive quantifier `{2}+`"),
        (r"x*+y", "the possessive quantifier `*+`, at character 2"),
        (r"x{1,}+", "the possessive quantifier `{1,}+`"),
    ],
)
def test_what_is_read_otherwise_is_named(pattern, said):
    """Of fuzzed shapes that were taken, some had answers that were kept to the shape and yet not valid."""
    assert ambiguity(pattern).startswith(said)
    with pytest.raises(SpecError, match="cannot be kept: it holds"):
        read_shape(ShapeKind.REGEX, pattern, "`--regex`")


@pytest.mark.parametrize(
    "pattern",
    [
        "a+",
        "a*?",
        "[+*]+",
        r"\++",
        "[]a]+",
        "[a-z-]",
        r"\[[a]",
        "a{2}",
        r"[\]\[]+",
        "}+",
        r"\{2}+",
        "a&&b--c",
        "a|b",
        "[^]]+",
    ],
)
def test_what_is_read_alike_is_taken(pattern):
    assert ambiguity(pattern) is None


def test_it_is_found_in_a_schema_and_its_place_is_named():
    schema = '{"properties": {"a": {"items": {"pattern": "^[a&&b]$"}}}}'
    with pytest.raises(SpecError, match=r"`&&` in brackets.*at `#/properties/a/items`"):
        read_shape(ShapeKind.JSON_SCHEMA, schema, "`--json-schema`")
    with pytest.raises(SpecError, match=r"possessive.*at `#`"):
        read_shape(ShapeKind.JSON_SCHEMA, '{"patternProperties": {"^x++$": {}}}', "`--json-schema`")


@pytest.mark.parametrize("keyword", ["const", "default"])
def test_a_value_that_looks_like_a_schema_is_none(keyword):
    """Only keywords whose values are schemas are looked into: what is a constant there needs no expression."""
    value = {"a": {"pattern": "[a&&b]"}}
    shape = read_shape(ShapeKind.JSON_SCHEMA, json.dumps({"type": "object", keyword: value}), "`--json-schema`")
    assert shape.kind is ShapeKind.JSON_SCHEMA
