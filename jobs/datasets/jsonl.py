"""JSONL: one JSON object a line, whose keys are the columns."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

from endmark.jobs.datasets.base import AS_UTF8, NOT_UTF8, AheadDataset, Line, Source, TextLines
from endmark.jobs.errors import Problem
from endmark.jobs.strict_json import refuse_constant, refuse_infinite, refuse_unstorable

_TOO_LONG = "holds a whole number of more than 4,300 digits"
_LOOK_AHEAD = 1000  # bad lines read in search of the first good one


class JsonlDataset(AheadDataset):
    """A JSONL file. A key that no line before has had becomes a new column; blank lines are passed over."""

    name = "jsonl"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json")
    grows = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._lines = TextLines(source)
        self._places: dict[str, int] = {}
        self._decode = json.JSONDecoder(
            parse_constant=refuse_constant, parse_float=refuse_infinite, object_pairs_hook=_refuse_repeats
        ).decode
        self._rows = self._read()
        for line in self._rows:
            self._ahead.append((self._raw, line))
            if not isinstance(line, Problem):
                return
            if len(self._ahead) == 1 and (kind := _whole_file(self._raw.lstrip("\ufeff \t"))) is not None:
                raise self.unusable(line.line, *kind)
            if len(self._ahead) == _LOOK_AHEAD:
                fix = AS_UTF8 if NOT_UTF8 in line.reason else None
                raise self.unusable(0, f"none of the first {_LOOK_AHEAD:,} lines can be used, as {line}", fix)

    @classmethod
    def begins(cls, head: bytes) -> bool:
        """Whether it may be JSON."""
        return head.startswith((b"{", b"["))

    @property
    def raw(self) -> str:
        """The row last read."""
        return str(self._raw)

    def _read(self) -> Iterator[Line]:
        """Read the lines one by one."""
        lines, places = self._lines, self._places
        lines.begin_row()
        for text in lines:
            if text.isspace():
                lines.begin_row()
                continue
            fault = lines.fault()
            self._raw = lines.taken[0]
            try:
                if fault is not None:
                    raise ValueError(fault[1])
                record = self._decode(text.rstrip("\r\n"))
                if type(record) is not dict:
                    raise ValueError(f"is {_kind(record)}, not a JSON object")
                if "\\u" in text:
                    refuse_unstorable(record)
                record = self.shape(record)
            except json.JSONDecodeError as error:
                yield Problem(self.source, lines.number, f"is not JSON: {error.msg} at column {error.colno:,}")
            except RecursionError:
                yield Problem(self.source, lines.number, "is nested too deeply")
            except ValueError as error:
                long = str(error).startswith("Exceeds the limit")  # Python's own words, which name its settings
                yield Problem(self.source, lines.number, _TOO_LONG if long else str(error))
            else:
                if record.keys() != places.keys():
                    self._grow(record)
                yield lines.number, [record.get(name) for name in places]
            lines.begin_row()

    def shape(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the columns that a line's object stands for: its own keys.

        Raises:
            ValueError: the object cannot be used.
        """
        return record

    def _grow(self, record: dict[str, Any]) -> None:
        """Add the keys that are new."""
        for name in record:
            if name not in self._places:
                self._places[name] = len(self.columns)
                self.columns.append(name)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def is_object(head: bytes) -> bool:
    """Whether the first line is a whole JSON object."""
    try:
        return isinstance(json.loads(head.partition(b"\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def _whole_file(first: str) -> tuple[str, str] | None:
    """Return what a file is whose first line begins a value of several lines, and what to do; or None."""
    if first.startswith("["):
        return "is a JSON array", "write one JSON object a line (JSONL): `jq -c '.[]' FILE` does"
    if first.rstrip() == "{":
        return "is a JSON object over several lines", "write each object in one line (JSONL): `jq -c . FILE` does"
    return None


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with the same key twice, of which Python would take the last."""
    record = dict(pairs)
    if len(record) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"has the key {name!r} twice")
    return record


def _kind(value: object) -> str:
    """Name a JSON value's type."""
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
