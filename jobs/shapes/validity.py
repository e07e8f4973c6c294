"""Whether a text is a whole value of a shape, judged apart from what made it: jsonschema, `re`, the labels."""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from endmark.jobs.shapes.grammar import grammar_of, library, pattern_of
from endmark.jobs.shapes.matching import accepts
from endmark.jobs.shapes.shape import Shape, ShapeKind
from endmark.jobs.strict_json import refuse_constant


def is_valid(shape: Shape, text: str) -> bool:
    """Whether a text is a whole value of the shape.

    Raises:
        MissingDependency: the extra `shapes` is not installed.
    """
    return _judge(shape)(text)


def malformed(schema: dict[str, Any]) -> tuple[str, str] | None:
    """Return where (a JSON pointer) and why a schema is none by its own draft; None if it is one."""
    jsonschema = library("jsonschema")
    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        return "/".join(["#", *map(str, error.absolute_path)]), error.message
    except RecursionError:
        return "#", "it is nested too deeply"
    except Exception as error:  # of a `$schema` or an `$id` that is none, and whatever else it stumbles over
        return "#", f"{type(error).__name__}: {error}"
    return None


@lru_cache(maxsize=256)
def _judge(shape: Shape) -> Callable[[str], bool]:
    """Return what judges the texts of one shape."""
    if shape.kind is ShapeKind.CHOICES:
        return frozenset(shape.choices).__contains__
    if shape.kind is ShapeKind.REGEX:
        pattern = pattern_of(shape)
        return lambda text: pattern.fullmatch(text) is not None
    if shape.kind is ShapeKind.GRAMMAR:
        grammar = grammar_of(shape)
        return lambda text: accepts(grammar, text.encode())
    return _schema_judge(json.loads(shape.text))


def _schema_judge(schema: dict[str, Any]) -> Callable[[str], bool]:
    """Return what judges texts by a JSON schema; nothing that it refers to is fetched."""
    from referencing import Registry

    jsonschema = library("jsonschema")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    validator = kind(schema, registry=Registry())

    def judge(text: str) -> bool:
        try:
            return bool(validator.is_valid(json.loads(text, parse_constant=refuse_constant)))
        except (ValueError, RecursionError):
            return False

    return judge
