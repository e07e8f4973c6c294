"""JSON as RFC 8259 has it: numbers that are none, which Python would write as `NaN` and `Infinity`, are null."""

import json
import math
from typing import Any, NoReturn


def strict_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:  # noqa: ANN401
    """Return a value as JSON; on one line unless `indent` is given, characters as they are unless `ascii_only`."""
    try:
        return json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=ascii_only, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Return the value with null for every number that is none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def refuse_unstorable(record: dict[str, Any]) -> None:
    r"""Refuse what no UTF-8 file can hold but an escape can: half of a surrogate pair, and NUL."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half of a surrogate pair: \\u{ord(text[error.start]):04x}") from error
    pending = [*record.keys(), *record.values()] if "\\u0000" in text else []
    while pending:
        item = pending.pop()
        if isinstance(item, str) and "\0" in item:
            raise ValueError("contains a NUL character")
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            pending += item


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON does not have; for `json.loads`.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"is not JSON: `{name}` is no JSON number")


def refuse_infinite(text: str) -> float:
    """Return a number; refuse one such as 1e999, which Python reads as infinity and no JSON can be written for.

    Raises:
        ValueError: it is such a number.
    """
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"has the number {text if len(text) < 40 else text[:40] + '…'}, which is too large")
    return value
