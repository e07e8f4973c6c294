"""Parquet: read a row group at a time with pyarrow, which the extra `parquet` brings."""

import datetime
import decimal
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from endmark.jobs.datasets.base import Dataset, Line, Source
from endmark.jobs.errors import MissingDependency, Problem

_BATCH = 2000  # rows turned into Python values at once
_PLAIN = frozenset({int, bool, type(None)})


class ParquetDataset(Dataset):
    """A Parquet file. Its lines are its rows, numbered from 1; values that JSON has not become text."""

    name = "parquet"
    suffixes = (".parquet", ".pq")

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise MissingDependency("Parquet", "parquet") from error
        self._errors = (pyarrow.ArrowException, OSError)
        self._stream = source.stream
        if not source.stream.seekable():
            raise self.unusable(0, "cannot be read from a pipe", hint="Parquet is read from its end: give a file")
        try:
            self._file = parquet.ParquetFile(source.stream, pre_buffer=False)
        except self._errors as error:
            raise self.unusable(0, f"is not Parquet: {error}") from error
        self.columns = list(self._file.schema_arrow.names)
        if len(set(self.columns)) < len(self.columns):
            raise self.unusable(0, "has two columns of one name")
        self._row: dict[str, Any] = {}

    @classmethod
    def begins(cls, head: bytes) -> bool:
        """Whether it begins with Parquet's magic number."""
        return head.startswith(b"PAR1")

    @property
    def raw(self) -> str:
        """The row last read, as JSON."""
        return json.dumps(self._row, ensure_ascii=False, default=str)

    def __iter__(self) -> Iterator[Line]:
        """Return the rows."""
        number = 0
        try:
            for batch in self._file.iter_batches(_BATCH):
                columns = [_values(column.to_pylist()) for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    number += 1
                    self._row = dict(zip(self.columns, cells, strict=True))
                    if (reason := _fault(self.columns, cells)) is not None:
                        yield Problem(self.source, number, reason)
                    else:
                        yield number, cells
        except self._errors as error:
            raise self.unusable(number + 1, f"cannot be read: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._stream.close()


@dataclass(frozen=True, slots=True)
class _Unusable:
    """Stands for a value that cannot be kept."""

    reason: str


def _fault(names: Sequence[str], cells: Sequence[Any]) -> str | None:
    """Return why a row cannot be used, naming the column; or None."""
    for name, cell in zip(names, cells, strict=True):
        if type(cell) is str and "\0" in cell:
            return f"column `{name}` contains a NUL character"
        if type(cell) is _Unusable:
            return f"column `{name}` {cell.reason}"
    return None


def _values(column: list[Any]) -> list[Any]:
    """Return a column's values as JSON has them."""
    return [value if type(value) in _PLAIN or type(value) is str else _kept(value) for value in column]


def _kept(value: Any) -> Any:  # noqa: ANN401 - whatever a Parquet column holds
    """Return one value as JSON has it, or what says that it has none."""
    try:
        return _json_value(value)
    except UnicodeDecodeError:
        return _Unusable("holds bytes that are not UTF-8 text: leave the column out, or write it as text")


def _json_value(value: Any) -> Any:  # noqa: ANN401 - whatever a Parquet column holds
    """Return one value as JSON has it: NaN and infinity as null, times in ISO form, the rest as text.

    Raises:
        UnicodeDecodeError: it holds bytes that are no text.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    return value if type(value) in _PLAIN or isinstance(value, str) else str(value)
