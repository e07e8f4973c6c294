"""A shape as the grammar that llguidance compiles, and why one cannot be: with the place in the user's text."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any

from endmark.jobs.errors import MissingDependency, SpecError
from endmark.jobs.shapes.dialect import ambiguity
from endmark.jobs.shapes.shape import Shape, ShapeKind
from endmark.jobs.strict_json import refuse_constant, refuse_infinite

SPACES = 8  # the most white space in a row between the parts of a JSON value
_WHITE = rf"[\x20\x0A\x0D\x09]{{1,{SPACES}}}"
_EXACT = 2**53  # the largest whole number that floating point holds with all below it
_UNKNOWN = re.compile(r'Unimplemented keys: \["(?P<name>[^"]*)"')
_DATES = re.compile(r'"format"\s*:\s*"date(-time)?"')
_YEAR = "^0{0,3}[1-9]"  # which 0000 is not: Python and the Gregorian calendar begin with 1
_MOMENT = (
    _YEAR + r"[^.]*(\.[0-9]{1,9}([^0-9.].*)?)?$"
)  # no finer than nanoseconds: models write digits without end
_OF_ONE = frozenset(  # keywords that hold one schema
    {"items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames"}
)
_OF_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_SHARED = ("$defs", "definitions")
_OF_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def check_shape(shape: Shape, where: str) -> None:
    """Refuse a shape to which answers cannot be kept.

    Args:
        shape: to be checked.
        where: the option or the column that it comes from, for messages.

    Raises:
        SpecError: it is malformed, or asks for what cannot be kept; the message names the place.
        MissingDependency: the extra `shapes` is not installed.
    """
    reason = _refusal(shape)
    if reason is not None:
        raise SpecError(f"{where}: {reason}")


def grammar_of(shape: Shape) -> str:
    """Return the grammar, as llguidance's matcher takes it.

    Raises:
        MissingDependency: the extra `shapes` is not installed.
    """
    matcher = library("llguidance").LLMatcher
    if shape.kind is ShapeKind.JSON_SCHEMA:
        text = _with_years(shape.text) if _DATES.search(shape.text) else shape.text
        return str(matcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": _WHITE}))
    if shape.kind is ShapeKind.REGEX:
        # Digits of other scripts are no digits here: of the newest ones Python's `re` does not know yet.
        return str(matcher.grammar_from_lark(f"start: /{library('llguidance').regex_to_lark(shape.text, 'd')}/"))
    if shape.kind is ShapeKind.CHOICES:
        labels = " | ".join(json.dumps(label, ensure_ascii=False) for label in shape.choices)
        return str(matcher.grammar_from_lark(f"start: {labels}"))
    return str(matcher.grammar_from_lark(shape.text))


def behind(text: str, grammar: str) -> str:
    """Return the grammar of a text with a value of another grammar behind it, as llguidance's matcher takes it."""
    own = json.loads(grammar) if grammar.startswith("{") else {"grammars": [{"lark_grammar": grammar}]}
    first, *others = own["grammars"]
    start = {"lark_grammar": f"start: {json.dumps(text, ensure_ascii=False)} @value"}
    return json.dumps({**own, "grammars": [start, {**first, "name": "value"}, *others]}, ensure_ascii=False)


def pattern_of(shape: Shape) -> re.Pattern[str]:
    """Return the regular expression of a shape, as Python reads it.

    Raises:
        re.error: it is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of signs that a later Python may read otherwise
        return re.compile(shape.text)


def library(name: str) -> Any:  # noqa: ANN401 - a module
    """Return a library of the extra `shapes`.

    Raises:
        MissingDependency: the extra is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependency("an answer in a given shape", "shapes") from error


@lru_cache(maxsize=1024)
def _refusal(shape: Shape) -> str | None:
    """Return why answers cannot be kept to a shape; None if they can."""
    if shape.kind is ShapeKind.JSON_SCHEMA:
        return _schema_refusal(shape)
    if shape.kind is ShapeKind.REGEX:
        try:
            pattern_of(shape)
        except re.error as error:
            return f"`{shape.text}` is no regular expression: {error}"
        unclear = ambiguity(shape.text)
        if unclear is not None:
            return f"`{shape.text}` cannot be kept: it holds {unclear}"
    found = _compiled_error(grammar_of(shape))
    return None if found is None else f"cannot be kept: {found}"


def _schema_refusal(shape: Shape) -> str | None:
    """Return what is wrong with a JSON schema, and where."""
    from endmark.jobs.shapes.validity import malformed

    try:
        schema = json.loads(
            shape.text, parse_constant=refuse_constant, parse_int=_exact, parse_float=refuse_infinite
        )
    except (ValueError, RecursionError) as error:
        return f"the schema cannot be read: {error}"
    if not isinstance(schema, dict):
        return "the schema is not a JSON object"
    if "x-guidance" in schema:
        return "the schema holds `x-guidance`, which Endmark sets itself"
    unclear = next(_unclear(schema), None)
    if unclear is not None:
        return f"the schema cannot be kept: {unclear[1]}, at `{unclear[0]}`"
    wrong = malformed(schema)
    if wrong is not None:
        return f"the schema is malformed at `{wrong[0]}`: {wrong[1]}"
    found = _schema_error(schema)
    if found is None:
        return None
    named = _UNKNOWN.search(found)
    said = f"`{named['name']}` is not supported" if named else found
    shared = {name: schema[name] for name in _SHARED if name in schema}
    return f"the schema cannot be kept: {said}, at `{_place(schema, shared, found)}`"


def _exact(text: str) -> int:
    """Return a whole number; refuse one that would be rounded in the grammar, and so would never be valid."""
    value = int(text)
    if abs(value) > _EXACT:
        raise ValueError(f"the number {text[:40]} is too large: at most 2**53 is kept exactly")
    return value


def _schema_error(schema: Mapping[str, Any]) -> str | None:
    """Return what llguidance says against a schema."""
    return _compiled_error(grammar_of(Shape(ShapeKind.JSON_SCHEMA, json.dumps(schema))))


def _compiled_error(grammar: str) -> str | None:
    """Return what llguidance says against a grammar, in one line."""
    failed, said = library("llguidance").LLMatcher.validate_grammar_with_warnings(grammar)
    return " ".join(" ".join(said).split()) if failed else None


def _place(schema: Mapping[str, Any], shared: Mapping[str, Any], error: str, pointer: str = "#") -> str:
    """Return where the deepest schema stands that is refused for the same reason."""
    for step, inner in sorted(_inner(schema), key=lambda item: item[0].split("/")[0] not in _SHARED):
        if isinstance(inner, dict) and _schema_error({**shared, **inner}) == error:
            return _place(inner, shared, error, f"{pointer}/{step}")
    return pointer


def _unclear(schema: Mapping[str, Any], pointer: str = "#") -> Iterator[tuple[str, str]]:
    """Yield the places of expressions in a schema that are not read alike, and what of them is not."""
    named = schema.get("patternProperties")
    patterns = [*named] if isinstance(named, dict) else []
    for pattern in (schema.get("pattern"), *patterns):
        found = ambiguity(pattern) if isinstance(pattern, str) else None
        if found is not None:
            yield pointer, f"`{pattern}` holds {found}"
    for step, inner in _inner(schema):
        if isinstance(inner, dict):
            yield from _unclear(inner, f"{pointer}/{step}")


def _with_years(text: str) -> str:
    """Return a schema whose dates have years that there are, and whose moments have no digits without end."""
    schema = json.loads(text)
    waiting = [schema]
    while waiting:
        inner = waiting.pop()
        if inner.get("format") in ("date", "date-time"):
            inner.setdefault("pattern", _YEAR if inner["format"] == "date" else _MOMENT)
        waiting += [item for _, item in _inner(inner) if isinstance(item, dict)]
    return json.dumps(schema, ensure_ascii=False)


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas that stand in one, each with its steps of a JSON pointer."""
    for name, value in schema.items():
        if name in _OF_ONE and isinstance(value, dict):
            yield name, value
        if name in _OF_LIST and isinstance(value, list):
            yield from ((f"{name}/{index}", item) for index, item in enumerate(value))
        if name in _OF_NAMES and isinstance(value, dict):
            for key, item in value.items():
                yield f"{name}/{key.replace('~', '~0').replace('/', '~1')}", item
