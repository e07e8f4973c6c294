"""The fields of JSON answers as columns of their own, behind the input's: for `--parse`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS, Result
from endmark.jobs.shapes import Shape, ShapeKind

_RESPONSE = COLUMNS.index("response")


def with_fields(export: Export) -> Export:
    """Return an export whose rows have, behind the input's columns, one for each field of the answers.

    Those that the job's schema names come first, in its order; then others, as answers bring them. A field that
    is called like another column stands behind `answer_`. An answer that is no JSON object has none. The rows
    are read twice.
    """
    names = dict.fromkeys(_named(export.job.spec.shape))
    for result in export.rows():
        names.update(dict.fromkeys(_fields(result)))
    taken = {"row", *export.columns, *COLUMNS}
    columns = [f"answer_{name}" if name in taken else name for name in names]

    def rows() -> Iterator[Result]:
        width = len(export.columns)
        for result in export.rows():
            found = _fields(result)
            cells = [*result.cells, *([None] * (width - len(result.cells))), *map(found.get, names)]
            yield replace(result, cells=cells)

    return replace(export, columns=(*export.columns, *columns), rows=rows)


def _named(shape: Shape | None) -> Sequence[str]:
    """Return the properties that a schema names, in its order."""
    if shape is None or shape.kind is not ShapeKind.JSON_SCHEMA:
        return ()
    properties = json.loads(shape.text).get("properties", {})
    return tuple(properties)


def _fields(result: Result) -> dict[str, Any]:
    """Return the fields of an answer; none where it is no JSON object."""
    text = result.values[_RESPONSE]
    if not text or not text.lstrip().startswith("{"):
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
