"""Random JSON schemas of the keywords that can be kept, for `benchmarks/shapes.py` and the tests."""

import random
from collections.abc import Callable
from typing import Any

_PATTERNS = ("^[A-Z]{2}-[0-9]{3}$", "^(red|green|blue)$", "^[a-z]+( [a-z]+){1,3}$", "^\\d{4}$")
_FORMATS = ("date", "time", "date-time", "uuid", "email", "ipv4")
_WORDS = ("name", "city", "year", "reason", "is_open", "tags", "price", "notes", "first name", "ключ", "a/b", "id")


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """Return a schema whose values nest at most `depth` deep, a recursive one now and then."""
    if depth == 3 and rng.random() < 0.06:
        child = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": rng.randint(1, 4)}
        node = {
            "type": "object",
            "properties": {"v": _leaf(rng), "kids": child},
            "required": ["v", "kids"] if rng.random() < 0.5 else ["v"],
        }
        return {"$defs": {"node": node}, "$ref": "#/$defs/node"}
    if depth == 0:
        return _leaf(rng)
    makers: list[Callable[[random.Random, int], dict[str, Any]]] = [_object, _object, _array, _any_of]
    return rng.choice(makers)(rng, depth - 1) if depth == 3 or rng.random() < 0.5 else _leaf(rng)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    """Return an object of some properties, of which some are required."""
    names = rng.sample(_WORDS, rng.randint(1, 6))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
    }
    if rng.random() < 0.7:
        schema["additionalProperties"] = False if rng.random() < 0.8 else _leaf(rng)
    return schema


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    """Return an array, of one kind of items or of some in order."""
    if rng.random() < 0.2:
        items = [random_schema(rng, depth) for _ in range(rng.randint(1, 3))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    schema: dict[str, Any] = {"type": "array", "items": random_schema(rng, depth)}
    if rng.random() < 0.6:
        schema["minItems"] = rng.randint(0, 3)
        schema["maxItems"] = schema["minItems"] + rng.randint(0, 3)
    return schema


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    """Return a choice."""
    return {"anyOf": [random_schema(rng, depth) for _ in range(rng.randint(2, 3))]}


def _leaf(rng: random.Random) -> dict[str, Any]:
    """Return a schema of a value that holds no others."""
    low = rng.randint(-50, 200)
    least = rng.randint(0, 6)
    return rng.choice(
        [
            {"type": "string"},
            {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 20)},
            {"type": "string", "pattern": rng.choice(_PATTERNS)},
            {"type": "string", "format": rng.choice(_FORMATS)},
            {"type": "integer"},
            {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 5000)},
            {"type": "number", "exclusiveMinimum": low},
            {"type": "boolean"},
            {"type": ["string", "null"]},
            {"type": ["integer", "boolean", "null"]},
            {"const": rng.choice(["yes", 7, None, [1, 2], {"a": 1}])},
            {"enum": rng.sample(["low", "middle", "high", 1, 2.5, True, None, 'a "word"'], rng.randint(1, 5))},
        ]
    )
