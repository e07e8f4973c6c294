"""The fields of JSON answers as columns of their own, behind the input's: for `--parse`."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS, Batch
from endmark.jobs.errors import UsageError
from endmark.jobs.shapes import Shape, ShapeKind
from endmark.jobs.spec import GenerationSpec

_RESPONSE = COLUMNS.index("response")
_OF_OBJECTS = frozenset(kind.value for kind in ShapeKind if kind is not ShapeKind.CHOICES)  # labels have no fields


def have_fields(spec: GenerationSpec, columns: Collection[str]) -> bool:
    """Whether a job asks for answers that may be JSON objects: by its shape, or by one in a column of its rows."""
    if spec.shape is not None and spec.shape.kind.value in _OF_OBJECTS:
        return True
    return spec.row_options and not _OF_OBJECTS.isdisjoint(columns)


def with_fields(export: Export) -> Export:
    """Return an export whose rows have, behind the input's columns, one for each field of the answers.

    Those that the job's schema names come first, in its order; then others, as answers bring them. A field that
    is called like another column stands behind `answer_`. An answer that is no JSON object has none. The rows
    are read twice, of a part those of all parts, whose columns are the same.

    Raises:
        UsageError: no answer has fields, and the job asked for none that has.
    """
    names = dict.fromkeys(_named(export.job.spec.shape))
    for batch in export.all_batches():
        for fields in map(_fields, batch.values[_RESPONSE]):
            names.update(dict.fromkeys(fields))
    if not names and not have_fields(export.job.spec, export.job.columns):
        raise UsageError(
            f"no answer of job {export.job.id} is a JSON object, so `--parse` has no fields to give columns",
            hint="leave `--parse` out; `endmark run --parse --json-schema FILE` asks for answers that have fields",
        )
    taken = {"row", *export.columns, *COLUMNS}
    columns = [f"answer_{name}" if name in taken else name for name in names]

    def widened(source: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
        width = len(export.columns)
        for batch in source():
            found = map(_fields, batch.values[_RESPONSE])
            cells = [
                [*old, *([None] * (width - len(old))), *map(new.get, names)]
                for old, new in zip(batch.cells, found, strict=True)
            ]
            yield replace(batch, cells=cells)

    whole = None if export.whole is None else partial(widened, export.whole)
    columns = [*export.columns, *columns]
    return replace(export, columns=tuple(columns), batches=partial(widened, export.batches), whole=whole)


def _named(shape: Shape | None) -> Sequence[str]:
    """Return the properties that a schema names, in its order."""
    if shape is None or shape.kind is not ShapeKind.JSON_SCHEMA:
        return ()
    properties = json.loads(shape.text).get("properties", {})
    return tuple(properties)


def _fields(text: str | None) -> dict[str, Any]:
    """Return the fields of an answer; none where it is no JSON object."""
    if not text or not text.lstrip().startswith("{"):
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
