"""What the OpenAI Batch API gives back: a line for each answer, and an error file for the rest."""

import json
import time
from collections.abc import Mapping
from typing import IO, Any

from endmark.db.export.request import Export, Format
from endmark.db.export.stream import COLUMNS, Result, read_probs
from endmark.jobs.datasets.openai import COMPLETION
from endmark.jobs.prompts import ID_COLUMNS
from endmark.jobs.strict_json import strict_json
from endmark.jobs.vocabulary import FinishReason

ERRORS = "errors.jsonl"  # ending of the error file
_DETAILS = (
    "finish_reason",
    "ended_with_eos",
    "truncated",
    "eos_source",
    "stop_sequence",
    "ending",
    "complete",
    "valid",
    "choice_prob",
    "choice_probs",
    "trimmed_tokens",
    "rewinds",
    "rewound_tokens",
    "ended_in",
    "thought_closed",
    "attempts",
    "eos_prob_max",
)


def write(handle: IO[str], export: Export) -> None:
    """Write the answers; rows that failed or were cancelled go to the error file, or to a stream among them.

    A row without a result yet is in neither, unless the export says what it is to be called.
    """
    errors = handle if export.beside is None else export.beside(ERRORS)
    created = int(time.time())
    for result in export.rows():
        values = dict(zip(COLUMNS, result.values, strict=True))
        if values["finish_reason"] is None and export.unanswered is None:
            continue
        if values["finish_reason"] is not None and FinishReason(values["finish_reason"]).has_answer:
            handle.write(strict_json(_answer(export, result, values, created)) + "\n")
            continue
        errors.write(strict_json(_error(export, result, values)) + "\n")


def _answer(export: Export, result: Result, values: Mapping[str, Any], created: int) -> dict[str, Any]:
    """Return the line of an answer."""
    cells = dict(zip(export.columns, result.cells, strict=False))
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": FinishReason(values["finish_reason"]).openai,
        "logprobs": None,
    }
    if cells.get("url") == COMPLETION:
        kind, prefix, choice["text"] = "text_completion", "cmpl", values["response"]
    else:
        kind, prefix = "chat.completion", "chatcmpl"
        choice["message"] = {"role": "assistant", "content": values["response"], "refusal": None}
        if values["reasoning"] is not None:
            choice["message"]["reasoning_content"] = values["reasoning"]
    used = {name: values[name] or 0 for name in ("prompt_tokens", "completion_tokens")}
    body = {
        "id": f"{prefix}-{_row_id(export, result)}",
        "object": kind,
        "created": created,
        "model": export.job.spec.model,
        "choices": [choice],
        "usage": {
            **used,
            "total_tokens": sum(used.values()),
            "completion_tokens_details": {"reasoning_tokens": values["reasoning_tokens"] or 0},
        },
        "endmark": {
            **{name: values[name] for name in _DETAILS},
            "choice_probs": read_probs(values["choice_probs"]),
        },
    }
    request_id = f"req-{_row_id(export, result)}"
    response = {"status_code": 200, "request_id": request_id, "body": body}
    return {**_head(export, result, cells), "response": response, "error": None}


def _error(export: Export, result: Result, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a row without an answer."""
    cells = dict(zip(export.columns, result.cells, strict=False))
    without = values["finish_reason"] in (None, FinishReason.CANCELLED)
    if without and export.unanswered is not None:
        code, message = export.unanswered
        error = {"code": code, "message": message}
    elif without:
        error = {"code": "batch_cancelled", "message": "the job was cancelled before this row had an answer"}
    else:
        error = {"code": "row_failed", "message": values["error"] or "the row failed"}
    return {**_head(export, result, cells), "response": None, "error": error}


def _head(export: Export, result: Result, cells: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every line begins with."""
    given = next((cells[name] for name in ID_COLUMNS[::-1] if cells.get(name) not in (None, "")), None)
    custom_id = f"row-{result.row}" if given is None else given if isinstance(given, str) else json.dumps(given)
    return {"id": f"batch_req_{_row_id(export, result)}", "custom_id": custom_id}


def _row_id(export: Export, result: Result) -> str:
    """Return a name of the row among all jobs."""
    return f"{export.job.id}-{result.row}"


FORMATS = {"openai": Format(write, beside=ERRORS)}
