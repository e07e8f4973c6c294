"""JSON Lines: one object a row, values with their types."""

from typing import IO

from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS
from endmark.jobs.strict_json import strict_json


def write(handle: IO[str], export: Export) -> None:
    """Write an object for each result."""
    names = ["row", *export.columns, *COLUMNS]
    for result in export.rows():
        cells = [*result.cells, *([None] * (len(export.columns) - len(result.cells)))]
        values = dict(zip(names, (result.row, *cells, *result.values), strict=True))
        handle.write(strict_json(values) + "\n")
