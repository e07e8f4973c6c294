"""CSV by RFC 4180, and the same with tabs."""

from collections.abc import Iterator
from functools import partial
from typing import IO, Any

from endmark.db.export.request import Export, Format
from endmark.db.export.stream import COLUMNS
from endmark.jobs.strict_json import strict_json

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(handle: IO[str], export: Export, *, delimiter: str = ",") -> None:
    """Write a header and a line for each result."""
    for line in _lines(export):
        cells = _defused(line) if export.excel_safe else line
        handle.write(delimiter.join(quoted(cell, delimiter) for cell in cells) + "\r\n")


def _lines(export: Export) -> Iterator[list[str]]:
    """Return the header, and the cells of each result."""
    yield ["row", *export.columns, *COLUMNS]
    width = len(export.columns)
    for result in export.rows():
        cells = result.cells + [""] * (width - len(result.cells))
        yield [_text(cell) for cell in (result.row, *cells, *result.values)]


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


def _defused(line: list[str]) -> list[str]:
    """Put a quote before cells that a spreadsheet would run as formulas."""
    return ["'" + cell if cell.startswith(_FORMULA) and not _is_number(cell) else cell for cell in line]


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
