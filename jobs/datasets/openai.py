"""OpenAI Batch JSONL: one request a line, `{"custom_id", "method", "url", "body"}`.

A request becomes the columns below. What it asks for and Endmark does not do is a problem of its line, named by
the field; fields that say what happens anyway (`best_of: 1`, `stream: false`) are passed over.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from endmark.jobs.datasets.base import Source
from endmark.jobs.datasets.jsonl import JsonlDataset
from endmark.jobs.errors import SpecError
from endmark.jobs.prompts import turn_text
from endmark.jobs.sampling import TABLE
from endmark.jobs.shapes import ShapeKind
from endmark.jobs.strategies import write_strategies
from endmark.jobs.strategies.stop import Stop
from endmark.jobs.template_args import EFFORT, TEMPLATE_ARGS, check_template_args, effort_args

_SAMPLING = tuple(item.name for item in TABLE if item.openai)
COLUMNS = (
    "custom_id",
    "url",
    "model",
    "messages",
    "prompt",
    "max_new_tokens",
    "samples",
    "logprobs",
    *_SAMPLING,
    "strategy",
    TEMPLATE_ARGS,
    ShapeKind.JSON_SCHEMA.value,
)
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
_MOST_STOPS = 4
_KWARGS = "chat_template_kwargs"
_BUDGETS = ("max_completion_tokens", "max_tokens")
_HONOURED = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "n",
        "stop",
        "logprobs",
        "top_logprobs",
        "response_format",
        EFFORT,
        _KWARGS,
        *_SAMPLING,
        *_BUDGETS,
    }
)
_WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
_ONLY_VALUE: Mapping[str, Sequence[Any]] = {  # fields that are taken with these values, or null, alone
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "modalities": (["text"],),
}
_BODY = re.compile(rb'"body"\s*:\s*\{')
_REQUEST = re.compile(rb'"custom_id"\s*:|"url"\s*:\s*"/v1/')


class OpenAIDataset(JsonlDataset):
    """A file of requests, as the Batch API takes it."""

    name = "openai"
    suffixes = ()  # such files are named .jsonl too, and told by their keys
    grows = False

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._grow(dict.fromkeys(COLUMNS))  # where every line so far is bad, none has brought them

    @classmethod
    def begins(cls, head: bytes) -> bool:
        """Whether the first line has the keys of a request, in whatever order."""
        line = head.partition(b"\n")[0]
        if not line.startswith(b"{"):
            return False
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return bool(_BODY.search(line) and _REQUEST.search(line))
        url = record.get("url")
        named = "custom_id" in record or (isinstance(url, str) and url.startswith("/v1/"))
        return named and isinstance(record.get("body"), dict)

    def shape(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a request's columns.

        Raises:
            ValueError: it is not a request, or asks for what Endmark does not do.
        """
        return request_columns(record)


def request_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a request, those it leaves out as None.

    Raises:
        ValueError: it is not a request, or asks for what Endmark does not do; the message names the field.
    """
    body, url = record.get("body"), record.get("url", CHAT)
    custom_id = record.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("`custom_id` is missing or not text")
    if record.get("method", "POST") != "POST":
        raise ValueError(f"`method` is {record['method']!r}, not `POST`")
    if url not in (CHAT, COMPLETION):
        raise ValueError(f"`url` is {url!r}; `{CHAT}` and `{COMPLETION}` are served")
    if not isinstance(body, dict):
        raise ValueError("`body` is missing or not an object")
    _refuse_unsupported(body)
    wanted = "messages" if url == CHAT else "prompt"
    if body.get(wanted) is None:
        raise ValueError(f"`body.{wanted}` is missing")
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= {name: body.get(name) for name in ("model", *_SAMPLING)}
    values |= {"custom_id": custom_id, "url": url}
    values[wanted] = _turns(body["messages"]) if url == CHAT else _prompt(body["prompt"])
    values["max_new_tokens"] = next((body[name] for name in _BUDGETS if body.get(name) is not None), None)
    values["samples"] = body.get("n")
    values["logprobs"] = _logprobs(body, chat=url == CHAT)
    values["strategy"] = _stop(body.get("stop"))
    values[TEMPLATE_ARGS] = _template_args(body) or None
    values[ShapeKind.JSON_SCHEMA.value] = _schema(body.get("response_format"))
    return values


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Refuse fields that would change the answer and are not honoured."""
    refused = [
        f"`body.{name}`"
        for name, value in body.items()
        if name not in _HONOURED
        and name not in _WITHOUT_EFFECT
        and value is not None
        and value not in _ONLY_VALUE.get(name, ())
    ]
    if refused:
        raise ValueError(f"{', '.join(refused)} {'is' if len(refused) == 1 else 'are'} not supported")


def _turns(messages: Any) -> Any:  # noqa: ANN401 - any JSON value, checked with the row
    """Return the turns with text content, and the developer's as the system's."""
    if not isinstance(messages, list):
        return messages
    turns = []
    for number, item in enumerate(messages, start=1):
        if not isinstance(item, dict):
            raise ValueError(f"`body.messages`, turn {number}: not an object")
        role = "system" if item.get("role") == "developer" else item.get("role")
        try:
            turns.append({"role": role, "content": turn_text(item)})
        except ValueError as error:
            raise ValueError(f"`body.messages`, turn {number}: {error}") from error
    return turns


def _prompt(prompt: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the one prompt of a completion."""
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise ValueError("`body.prompt` is not one text")
    return prompt


def _logprobs(body: Mapping[str, Any], *, chat: bool) -> int | None:
    """Return how many best tokens of each step a request asks for; None if it asks for no log probabilities."""
    wanted, best = body.get("logprobs"), body.get("top_logprobs")
    if not chat:
        if isinstance(wanted, bool) or best is not None:
            raise ValueError("`body.logprobs` of a completion is a number, and `body.top_logprobs` is for chats")
        return wanted
    if wanted not in (None, False, True):
        raise ValueError("`body.logprobs` of a chat is true or false; `body.top_logprobs` says how many")
    if not wanted and best:
        raise ValueError("`body.top_logprobs` needs `body.logprobs: true`")
    return (best or 0) if wanted else None


def _stop(stop: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """Return the stop strings as a strategy that is added to the job's."""
    if stop is None or stop == []:
        return None
    texts = [stop] if isinstance(stop, str) else stop
    if isinstance(texts, list) and len(texts) > _MOST_STOPS:
        raise ValueError(f"`body.stop` has {len(texts):,} texts; the Batch API takes {_MOST_STOPS}")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("`body.stop` is not text, nor a list of texts")
    if not all(texts):
        raise ValueError("`body.stop` holds an empty text, at which every answer would stop")
    return "+" + write_strategies([Stop({"text": tuple(texts)})])


def _template_args(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the chat template is to be given; of the two fields, the more exact one wins."""
    given = body.get(_KWARGS)
    try:
        own = check_template_args(given, f"`body.{_KWARGS}`") if given is not None else {}
    except SpecError as error:
        raise ValueError(str(error)) from error
    return {**effort_args(body.get(EFFORT)), **own}


def _schema(wanted: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON schema that a `response_format` asks for; None where the answer is text."""
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise ValueError("`body.response_format.type` is not `text`, `json_object` or `json_schema`")
    about = wanted.get("json_schema")
    schema = about.get("schema") if isinstance(about, dict) else None
    if not isinstance(schema, dict):
        raise ValueError("`body.response_format.json_schema.schema` is missing or not an object")
    return schema
