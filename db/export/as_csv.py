"""CSV by RFC 4180, and the same with tabs."""

from collections.abc import Sequence
from functools import partial
from typing import IO, Any

from endmark.db.export.request import Export, Format
from endmark.db.export.stream import COLUMNS
from endmark.jobs.strict_json import strict_json

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SAME_TEXT = {type(None), str, bool, int}  # of these, equal values of one type are the same text


def write(handle: IO[str], export: Export, *, delimiter: str = ",") -> None:
    """Write a header and a line for each result."""
    header = ["row", *export.columns, *COLUMNS]
    handle.write(_lines([[name] for name in header], delimiter, excel_safe=export.excel_safe))
    width = len(export.columns)
    for batch in export.batches():
        cells = [found + [None] * (width - len(found)) for found in batch.cells]
        columns = [batch.rows, *zip(*cells, strict=True), *batch.values]
        handle.write(_lines(columns, delimiter, excel_safe=export.excel_safe))


def _lines(columns: Sequence[Sequence[Any]], delimiter: str, *, excel_safe: bool) -> str:
    """Return the lines of some rows, given by columns: what costs Python a call is done once for a column."""
    cells = [_cells(column, delimiter, excel_safe=excel_safe) for column in columns]
    return "\r\n".join(map(delimiter.join, zip(*cells, strict=True))) + "\r\n"


def _cells(column: Sequence[Any], delimiter: str, *, excel_safe: bool) -> Sequence[str]:
    """Return the cells of a column as they stand in their lines."""
    kinds = set(map(type, column))
    if kinds <= _SAME_TEXT and len(kinds) == 1 and column.count(column[0]) == len(column):
        return _cells_of([_text(column[0])], delimiter, excel_safe=excel_safe) * len(column)
    if kinds <= {int, float}:  # none of which is quoted or a formula
        return list(map(repr, column))
    texts = column if kinds == {str} else [_text(value) for value in column]
    return _cells_of(texts, delimiter, excel_safe=excel_safe)


def _cells_of(texts: Sequence[str], delimiter: str, *, excel_safe: bool) -> list[str]:
    """Return texts as cells."""
    return [quoted(text, delimiter) for text in (map(_defused, texts) if excel_safe else texts)]


def quoted(cell: str, delimiter: str = ",") -> str:
    """Return a cell as it stands in a line, as `csv.writer` does at a tenth of the time that it takes."""
    if '"' in cell:
        return '"' + cell.replace('"', '""') + '"'
    return f'"{cell}"' if delimiter in cell or "\n" in cell or "\r" in cell else cell


def _text(value: Any) -> str:  # noqa: ANN401
    """Return a value as the text of a cell."""
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is int or kind is float:
        return repr(value)
    return "" if value is None else strict_json(value)


def _defused(cell: str) -> str:
    """Put a quote before a cell that a spreadsheet would run as a formula."""
    return "'" + cell if cell.startswith(_FORMULA) and not _is_number(cell) else cell


def _is_number(cell: str) -> bool:
    """Whether a spreadsheet would read the cell as a plain number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


FORMATS = {
    "csv": Format(write, (".csv",)),
    "tsv": Format(partial(write, delimiter="\t"), (".tsv",)),
}
