"""JSON Lines: one object a row, values with their types."""

import json
from collections.abc import Iterable, Sequence
from typing import IO

from db.export.stream import COLUMNS, Result


def write(handle: IO[str], columns: Sequence[str], results: Iterable[Result], *, excel_safe: bool) -> None:
    """Write an object for each result; `excel_safe` means nothing here."""
    del excel_safe
    names = ["row", *columns, *COLUMNS]
    for result in results:
        cells = [*result.cells, *([None] * (len(columns) - len(result.cells)))]
        values = dict(zip(names, (result.row, *cells, *result.values), strict=True))
        handle.write(json.dumps(values, ensure_ascii=False) + "\n")
