"""CSV by RFC 4180."""

import csv
import json
from collections.abc import Iterator
from typing import IO, Any

from db.export.request import Export
from db.export.stream import COLUMNS

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(handle: IO[str], export: Export) -> None:
    """Write a header and a line for each result."""
    lines = _lines(export)
    csv.writer(handle, lineterminator="\r\n").writerows(map(_defused, lines) if export.excel_safe else lines)


def _lines(export: Export) -> Iterator[list[Any]]:
    """Return the header, and the cells of each result."""
    yield ["row", *export.columns, *COLUMNS]
    width = len(export.columns)
    for result in export.rows():
        cells = result.cells + [""] * (width - len(result.cells))
        yield [
            # The csv module itself writes text and numbers, and None as nothing, as they are wanted.
            _json(cell) if type(cell) in (bool, list, dict) else cell
            for cell in (result.row, *cells, *result.values)
        ]


def _json(value: Any) -> str:  # noqa: ANN401
    """Return a value of which a cell is not the text."""
    return json.dumps(value, ensure_ascii=False)


def _defused(line: list[Any]) -> list[Any]:
    """Put a quote before cells that a spreadsheet would run as formulas."""
    return [
        "'" + cell if type(cell) is str and cell.startswith(_FORMULA) and not _is_number(cell) else cell
        for cell in line
    ]


def _is_number(cell: str) -> bool:
    """Whether a spreadsheet would read the cell as a plain number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
