"""CSV by RFC 4180."""

import csv
import json
from collections.abc import Iterable, Sequence
from typing import IO, Any

from db.export.stream import COLUMNS, Result

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(handle: IO[str], columns: Sequence[str], results: Iterable[Result], *, excel_safe: bool) -> None:
    """Write a header and a line for each result.

    Args:
        columns: names of the input's columns as they are to come out.
        excel_safe: put a quote before cells that a spreadsheet would run as formulas.
    """
    writer = csv.writer(handle, lineterminator="\r\n")
    writer.writerow(["row", *columns, *COLUMNS])
    width = len(columns)
    for result in results:
        cells = [_cell(cell) for cell in result.cells]
        cells += [""] * (width - len(cells))
        line = [str(result.row), *cells, *map(_cell, result.values)]
        if excel_safe:
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
