"""What the OpenAI Batch API gives back: a line for each request with an answer, and an error file for the rest."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import IO, Any

from endmark.db.export.request import Export, Format
from endmark.db.export.stream import COLUMNS, Result, read_probs
from endmark.jobs.datasets.openai import COMPLETION
from endmark.jobs.logprobs import as_completion, as_openai
from endmark.jobs.prompts import ID_COLUMNS
from endmark.jobs.strict_json import strict_json
from endmark.jobs.vocabulary import FinishReason

_SAMPLE = COLUMNS.index("sample")
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
    "weights",
)


_Values = Mapping[str, Any]  # of a result, by the names of COLUMNS, `cached_tokens` and `logprobs`


def write(handle: IO[str], export: Export) -> None:
    """Write the answers; requests that failed or were cancelled go to the error file, or to a stream among them.

    A request has one line, whose choices are its answers. One without a result yet has none, unless the export
    says what it is to be called.
    """
    errors = handle if export.beside is None else export.beside(ERRORS)
    created = int(time.time())
    for request in _requests(export.rows()):
        values = [
            {
                **dict(zip(COLUMNS, result.values, strict=True)),
                "cached_tokens": result.cached_tokens,
                "logprobs": result.logprobs,
            }
            for result in request
        ]
        ended = [item for item in values if item["finish_reason"] is not None]
        if not ended and export.unanswered is None:
            continue
        answers = [item for item in ended if FinishReason(item["finish_reason"]).has_answer]
        if answers:
            handle.write(strict_json(_answer(export, request[0], answers, created)) + "\n")
            continue
        errors.write(strict_json(_error(export, request[0], (ended or values)[0])) + "\n")


def _requests(results: Iterable[Result]) -> Iterator[list[Result]]:
    """Return the results of each request; those of one with several answers stand one behind the other."""
    for _, group in groupby(results, key=lambda result: result.row - (result.values[_SAMPLE] or 0)):
        yield list(group)


def _answer(export: Export, result: Result, answers: Sequence[_Values], created: int) -> dict[str, Any]:
    """Return the line of a request.

    Args:
        result: its first one, whose cells are those of all.
        answers: what is known of its answers, at least one.
    """
    cells = dict(zip(export.columns, result.cells, strict=False))
    is_text = cells.get("url") == COMPLETION
    kind, prefix = ("text_completion", "cmpl") if is_text else ("chat.completion", "chatcmpl")
    prompt = answers[0]["prompt_tokens"] or 0
    completion, reasoning = (
        sum(item[f"{name}_tokens"] or 0 for item in answers) for name in ("completion", "reasoning")
    )
    body = {
        "id": f"{prefix}-{_row_id(export, result)}",
        "object": kind,
        "created": created,
        "model": export.job.spec.model,
        "choices": [_choice(item, is_text=is_text) for item in answers],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": answers[0]["cached_tokens"]},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        },
    }
    if answers[0]["sample"] is None:
        body["endmark"] = _details(answers[0])
    request_id = f"req-{_row_id(export, result)}"
    response = {"status_code": 200, "request_id": request_id, "body": body}
    return {**_head(export, result, cells), "response": response, "error": None}


def _choice(values: _Values, *, is_text: bool) -> dict[str, Any]:
    """Return an answer; one of several has its own details."""
    choice: dict[str, Any] = {
        "index": values["sample"] or 0,
        "finish_reason": FinishReason(values["finish_reason"]).openai,
        "logprobs": _logprobs(values, is_text=is_text),
    }
    if is_text:
        choice["text"] = values["response"]
    else:
        choice["message"] = {"role": "assistant", "content": values["response"], "refusal": None}
        if values["reasoning"] is not None:
            choice["message"]["reasoning_content"] = values["reasoning"]
    if values["sample"] is not None:
        choice["endmark"] = _details(values)
    return choice


def _logprobs(values: _Values, *, is_text: bool) -> dict[str, Any] | None:
    """Return the log probabilities of an answer's tokens, thoughts left out; None where they are not kept."""
    if values["logprobs"] is None:
        return None
    if is_text:
        return as_completion(values["logprobs"])
    return {"content": as_openai(values["logprobs"], begin=values["reasoning_tokens"] or 0), "refusal": None}


def _details(values: _Values) -> dict[str, Any]:
    """Return what is known of an answer beyond what OpenAI's API says."""
    return {**{name: values[name] for name in _DETAILS}, "choice_probs": read_probs(values["choice_probs"])}


def _error(export: Export, result: Result, values: _Values) -> dict[str, Any]:
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


FORMATS = {"openai": Format(write, beside=ERRORS, logprobs=True)}
