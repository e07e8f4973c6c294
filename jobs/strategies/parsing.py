r"""Strategies as text: `name:key=value,key="quoted, value"`, several joined by `;`.

In a value, `\n`, `\t`, `\r`, `\\`, `\"` and `\uXXXX` stand for what they do in JSON; a value with a comma, a
semicolon or a leading quote is written in double quotes.
"""

import json
import re
from collections.abc import Iterable

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies.base import Strategy, Value

_NAME = re.compile(r"\s*([A-Za-z][\w-]*)\s*")
_KEY = re.compile(r"\s*([A-Za-z][\w-]*)\s*=")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"\s*', re.DOTALL)
_BARE = re.compile(r"(?:[^,;\\]|\\.)*", re.DOTALL)
_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|[ntr\\"])')
_PLAIN = re.compile(r"[^,;\"\\\s\x00-\x1f][^,;\\\x00-\x1f]*(?<!\s)")


def parse_strategies(text: str) -> tuple[tuple[str, dict[str, list[str]]], ...]:
    """Split the text into names and their parameters, each with the values given for it, in order.

    Raises:
        SpecError: the text is not of the form above.
    """
    found: list[tuple[str, dict[str, list[str]]]] = []
    position = 0
    while True:
        match = _NAME.match(text, position)
        if not match:
            raise SpecError(f"strategy `{text}`: expected a name at `{text[position:]}`")
        position = match.end()
        parameters: dict[str, list[str]] = {}
        if text[position : position + 1] == ":":
            position = _parameters(text, position + 1, parameters)
        found.append((match[1], parameters))
        if position == len(text):
            return tuple(found)
        if text[position] != ";":
            raise SpecError(
                f"strategy `{text}`: unexpected `{text[position:]}`",
                hint="write NAME:key=value,key=value and put a value with commas in double quotes",
            )
        position += 1


def _parameters(text: str, position: int, into: dict[str, list[str]]) -> int:
    """Read `key=value,…` from `position`; return where it ends."""
    while True:
        match = _KEY.match(text, position)
        if not match:
            raise SpecError(f"strategy `{text}`: expected key=value at `{text[position:]}`")
        position = match.end()
        value = _QUOTED.match(text, position) or _BARE.match(text, position)
        assert value is not None  # _BARE matches the empty text
        position = value.end()
        into.setdefault(match[1].replace("-", "_"), []).append(_unescape(value[0]))
        if text[position : position + 1] != ",":
            return position
        position += 1


def _unescape(raw: str) -> str:
    """Return the value that the raw text stands for."""
    stripped = raw.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] == '"':
        raw = stripped[1:-1]
    return _ESCAPE.sub(lambda match: str(json.loads(f'"{match[0]}"')), raw)


def write_strategy(strategy: Strategy) -> str:
    """Return the text that parses to this strategy, with the parameters that were given."""
    parts = [
        f"{name}={_write(item)}"
        for name, value in strategy.given.items()
        for item in (value if isinstance(value, tuple) else (value,))
    ]
    return strategy.name + (":" + ",".join(parts) if parts else "")


def write_strategies(strategies: Iterable[Strategy]) -> str:
    """Return the text that parses to these strategies together."""
    return ";".join(write_strategy(strategy) for strategy in strategies)


def _write(value: Value) -> str:
    """Return one value as text, quoted where it must be."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
