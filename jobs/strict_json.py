"""JSON as RFC 8259 has it: numbers that are none, which Python would write as `NaN` and `Infinity`, are null."""

import json
import math
from typing import Any


def strict_json(value: Any, *, indent: int | None = None) -> str:  # noqa: ANN401
    """Return a value as JSON, characters as they are; on one line unless `indent` is given."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Return the value with null for every number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
