"""CSV by RFC 4180."""

import csv
import json
from typing import IO, Any

from db.export.request import Export
from db.export.stream import COLUMNS

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(handle: IO[str], export: Export) -> None:
    """Write a header and a line for each result."""
    writer = csv.writer(handle, lineterminator="\r\n")
    writer.writerow(["row", *export.columns, *COLUMNS])
    width = len(export.columns)
    for result in export.rows():
        cells = [_cell(cell) for cell in result.cells]
        cells += [""] * (width - len(cells))
        line = [str(result.row), *cells, *map(_cell, result.values)]
        if export.excel_safe:
            line = ["'" + cell if cell.startswith(_FORMULA) and not _is_number(cell) else cell for cell in line]
        writer.writerow(line)


def _cell(value: Any) -> str:  # noqa: ANN401
    """Return a value as a cell."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False)


def _is_number(cell: str) -> bool:
    """Whether a spreadsheet would read the cell as a plain number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
