"""Log probabilities of an answer's tokens: as they are stored, and as OpenAI's API has them.

Stored is a JSON list with `[token, log probability, [[token, log probability], …]]` for each token of the answer,
the best tokens of its step behind it. A token is its text; one that holds parts of characters is a list of its
bytes, and a special one `{"name": …}`.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

MOST = 20  # best tokens of a step, as OpenAI's API has it
_LEAST = -9999.0  # for what is impossible, as OpenAI's API has it; JSON knows no infinity
Token = str | list[int] | dict[str, str]
Scored = tuple[Token, float]


def encode_token(data: bytes, name: str | None = None) -> Token:
    """Return a token as it is stored.

    Args:
        data: its bytes.
        name: of a special token, which has none.
    """
    if name is not None:
        return {"name": name}
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def encode(tokens: Iterable[Sequence[Scored]]) -> str:
    """Return an answer's tokens as they are stored.

    Args:
        tokens: for each token of the answer itself, then the best of its step.
    """
    told = [
        [token, _rounded(log_prob), [[other, _rounded(score)] for other, score in best]]
        for (token, log_prob), *best in tokens
    ]
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def without_last(stored: str, count: int) -> str:
    """Return those of an answer's tokens but for its last ones."""
    told = json.loads(stored)
    return json.dumps(told[: len(told) - count], ensure_ascii=False, separators=(",", ":"))


def as_openai(stored: str, *, begin: int = 0) -> list[dict[str, Any]]:
    """Return the `content` of OpenAI's chat completions.

    Args:
        begin: the first token that is meant.
    """
    return [
        {**_described(token, log_prob), "top_logprobs": [_described(*other) for other in best]}
        for token, log_prob, best in json.loads(stored)[begin:]
    ]


def as_completion(stored: str) -> dict[str, Any]:
    """Return the `logprobs` of OpenAI's completions; of best tokens with one text, the first is told."""
    content = as_openai(stored)
    texts = [item["token"] for item in content]
    tops = [{top["token"]: top["logprob"] for top in reversed(item["top_logprobs"])} for item in content]
    ends = [0]
    for text in texts:
        ends.append(ends[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [item["logprob"] for item in content],
        "top_logprobs": tops,
        "text_offset": ends[:-1],
    }


def _described(token: Token, log_prob: float) -> dict[str, Any]:
    """Return a token as OpenAI's API has it."""
    if isinstance(token, dict):
        return {"token": token["name"], "logprob": log_prob, "bytes": None}
    data = token.encode() if isinstance(token, str) else bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": log_prob, "bytes": list(data)}


def _rounded(log_prob: float) -> float:
    """Return a log probability to five places."""
    return round(max(log_prob, _LEAST), 5)
