"""JSON Lines: one object a row, values with their types."""

from typing import IO

from endmark.db.export.request import Export, Format
from endmark.db.export.stream import read_probs
from endmark.jobs.strict_json import strict_json


def write(handle: IO[str], export: Export) -> None:
    """Write an object for each result."""
    for result in export.rows():
        values = result.as_dict(export.columns)
        values["choice_probs"] = read_probs(values["choice_probs"])
        handle.write(strict_json(values) + "\n")


FORMATS = {"jsonl": Format(write, (".jsonl", ".ndjson"), logprobs=True)}
