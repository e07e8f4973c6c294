"""Rows that a Python program hands over: prompts, dictionaries, chats, or a data frame."""

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from endmark.jobs.datasets.base import AheadDataset, Line, Source
from endmark.jobs.errors import DatasetError, Problem, UsageError
from endmark.jobs.strict_json import refuse_unstorable

_PLAIN = (bool, int)


class RowsDataset(AheadDataset):
    """An iterable of rows, or a data frame of pandas or polars. Keys that no row before has had are new columns.

    A row is a prompt, a dictionary of columns, or a list of chat turns. Values that JSON does not have (dates,
    decimals) become text, NaN becomes null.
    """

    name = "rows"
    suffixes: ClassVar[tuple[str, ...]] = ()
    grows = True

    def __init__(self, rows: Any) -> None:  # noqa: ANN401 - an iterable, or what has the methods of a data frame
        """Take the rows; the first one is read at once.

        Raises:
            DatasetError: there are none.
            UsageError: they cannot be gone through.
        """
        super().__init__(Source("row", io.BufferedReader(io.BytesIO())))
        self._known: set[str] = set()  # columns
        self._rows = self._read(_records(rows))
        first = next(self._rows, None)
        if first is None:
            raise DatasetError([Problem("rows", 0, "there are none")], 1, hint="give at least one prompt")
        self._ahead.append((self._raw, first))

    @classmethod
    def begins(cls, head: bytes) -> bool:
        """Return False: it is no file."""
        del head
        return False

    @property
    def raw(self) -> str:
        """The row last read."""
        return repr(self._raw)

    def _read(self, records: Iterable[Any]) -> Iterator[Line]:
        """Read the rows one by one, numbered from 1."""
        for number, self._raw in enumerate(records, 1):
            try:
                record = _record(self._raw)
                refuse_unstorable(record)
            except RecursionError:
                yield Problem(self.source, number, "is nested too deeply")
            except ValueError as error:
                yield Problem(self.source, number, str(error))
            else:
                new = [name for name in record if name not in self._known]
                self.columns.extend(new)
                self._known.update(new)
                yield number, [record.get(name) for name in self.columns]

    def close(self) -> None:
        """Do nothing: no file is open."""


def _records(rows: Any) -> Iterable[Any]:  # noqa: ANN401
    """Return the rows of an iterable or a data frame.

    Raises:
        UsageError: it is neither.
    """
    if hasattr(rows, "iter_rows"):  # polars
        named: Iterable[Any] = rows.iter_rows(named=True)
        return named
    if hasattr(rows, "itertuples"):  # pandas
        names = [str(name) for name in rows.columns]
        if len(set(names)) < len(names):
            (name, _), *_ = Counter(names).most_common(1)
            raise UsageError(f"the data frame has the column `{name}` twice", hint="give each a name of its own")
        return (dict(zip(names, cells, strict=True)) for cells in rows.itertuples(index=False, name=None))
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        fix = "give a list of prompts or of dictionaries, or the path of a file"
        raise UsageError(
            f"rows are to be a data frame or an iterable, and this is of the type {type(rows).__name__}",
            hint="call its `collect()` first" if hasattr(rows, "collect") else fix,
        )
    records: Iterable[Any] = rows
    return records


def _record(row: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a row's columns with values that JSON has.

    Raises:
        ValueError: it cannot be used.
    """
    if isinstance(row, str):
        return {"prompt": _value(row)}
    if isinstance(row, Mapping):
        return {_key(name): _value(value) for name, value in row.items()}
    if isinstance(row, Sequence) and not isinstance(row, bytes):
        return {"messages": _value(row)}
    raise ValueError(
        f"is of the type {type(row).__name__}, and neither text nor a dictionary nor a list of chat turns"
    )


def _key(name: Any) -> str:  # noqa: ANN401
    """Return a column's name."""
    if not isinstance(name, str):
        raise ValueError(f"has the key {name!r}, which is not text")
    return name


def _value(value: Any) -> Any:  # noqa: ANN401
    """Return a value as JSON has it."""
    if value is None or type(value) is str or isinstance(value, _PLAIN):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # the text itself of numpy's strings and of enums
    if isinstance(value, Mapping):
        return {_key(name): _value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _value(value.tolist())
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("has an infinite number")
        return None if math.isnan(value) else value
    if isinstance(value, bytes):
        raise ValueError("has bytes, which are not text")
    text = str(value)
    return None if text in ("NaT", "<NA>") else text
