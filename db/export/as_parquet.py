"""Parquet, written a row group at a time with pyarrow, which the extra `parquet` brings."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any

from endmark.db.export.request import Export, Format
from endmark.db.export.stream import COLUMNS, Result
from endmark.jobs.errors import MissingDependency
from endmark.jobs.strict_json import strict_json

_GROUP = 20_000  # rows
_BOOLEANS = frozenset({"ended_with_eos", "truncated", "complete", "valid"})
_FLOATS = frozenset({"choice_prob", "eos_prob_max"})
_INTEGERS = frozenset(
    {
        "sample",
        "prompt_tokens",
        "completion_tokens",
        "trimmed_tokens",
        "rewinds",
        "rewound_tokens",
        "reasoning_tokens",
        "attempts",
        "same_as",
    }
)
_LARGEST = 2**63


def write(handle: IO[bytes], export: Export) -> None:
    """Write the results, zstd-compressed.

    Raises:
        MissingDependency: pyarrow is not installed.
    """
    _, parquet = library()
    schema, tables = as_tables(export)
    with parquet.ParquetWriter(handle, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)


def as_tables(export: Export) -> tuple[Any, Iterator[Any]]:
    """Return the results as Arrow has them: the schema, and tables of some thousand rows each.

    An input column keeps its type where all its values have one; else its values are JSON texts. The rows are
    therefore read twice, of a part those of all parts.

    Raises:
        MissingDependency: pyarrow is not installed.
    """
    pyarrow, _ = library()
    kinds = _kinds(export)
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    fields = [("row", types[int])]
    fields += [(name, types.get(kind, types[str])) for name, kind in zip(export.columns, kinds, strict=True)]
    fields += [(name, types[_kind_of(name)]) for name in COLUMNS]
    schema = pyarrow.schema(fields)

    def table(rows: list[Result]) -> Any:  # noqa: ANN401 - pyarrow's
        columns = zip(*(_line(row, kinds) for row in rows), strict=True)
        arrays = [pyarrow.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
        return pyarrow.table(arrays, schema=schema)

    return schema, map(table, _groups(export))


def library() -> tuple[Any, Any]:
    """Return pyarrow, and its module for Parquet.

    Raises:
        MissingDependency: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency("Parquet", "parquet") from error
    return pyarrow, parquet


def _kinds(export: Export) -> list[type]:
    """Return the type of each input column; `object` where its values have several."""
    found: list[set[type]] = [set() for _ in export.columns]
    for cells in chain.from_iterable(batch.cells for batch in export.all_batches()):
        for kinds, cell in zip(found, cells, strict=False):
            kinds.add(object if type(cell) is int and not -_LARGEST <= cell < _LARGEST else type(cell))
    return [_common(kinds - {type(None)}) for kinds in found]


def _common(kinds: set[type]) -> type:
    """Return the one type that holds all values, or `object`."""
    if kinds <= {int, float} and float in kinds:
        return float
    kind = kinds.pop() if len(kinds) == 1 else (object if kinds else str)
    return kind if kind in (str, int, float, bool) else object


def _kind_of(name: str) -> type:
    """Return the type of one of our columns."""
    if name in _BOOLEANS:
        return bool
    return int if name in _INTEGERS else float if name in _FLOATS else str


def _groups(export: Export) -> Iterator[list[Result]]:
    """Return the results, a row group at a time."""
    rows = export.rows()
    while group := list(islice(rows, _GROUP)):
        yield group


def _line(result: Result, kinds: Sequence[type]) -> list[Any]:
    """Return one row's values."""
    cells: list[Any] = [*result.cells, *([None] * (len(kinds) - len(result.cells)))]
    cells = [
        strict_json(cell) if kind is object and cell is not None else cell
        for cell, kind in zip(cells, kinds, strict=True)
    ]
    return [result.row, *cells, *result.values]


FORMATS = {"parquet": Format(write, (".parquet",), binary=True, check=library)}
