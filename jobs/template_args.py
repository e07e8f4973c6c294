"""Arguments of a model's chat template, such as `enable_thinking`, per job and per row."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from endmark.jobs.errors import SpecError

TEMPLATE_ARGS = "template_args"  # the column of a row's own
EFFORT = "reasoning_effort"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_OURS = frozenset(  # what transformers' `apply_chat_template` takes itself, and what every template is given
    "add_generation_prompt bos_token chat_template continue_final_message conversation documents eos_token"
    " max_length messages padding return_assistant_tokens_mask return_dict return_tensors self tokenize"
    " tokenizer_kwargs tools truncation".split()
)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


def read_template_args(texts: Iterable[str]) -> dict[str, Any]:
    """Read arguments from texts of the form `KEY=JSON`; a value that is one plain word is that word.

    Raises:
        SpecError: one is not of that form, or its name cannot be given.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"`--template-arg {text}`: no value", hint="for example enable_thinking=false")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError) as error:
            if not _WORD.fullmatch(value) or value.lower() in ("true", "false", "none", "null"):
                raise SpecError(
                    f"`--template-arg {text}`: `{value}` is not JSON",
                    hint="`true`, `false` and `null` are written small, texts in quotes",
                ) from error
            found[name] = value
    return check_template_args(found, "`--template-arg`")


def check_template_args(values: Any, where: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """Return arguments if they can be given to a template.

    Args:
        values: names with any JSON values.
        where: they stand, for messages.

    Raises:
        SpecError: they are no JSON object, or one of the names is none, or is Endmark's to give.
    """
    if not isinstance(values, dict):
        raise SpecError(f"{where}: not a JSON object", hint='for example {"enable_thinking": false}')
    for name in values:
        if not _NAME.fullmatch(name) or name in _OURS:
            raise SpecError(f"{where}: a chat template cannot be given `{name}`")
    return values


def effort_args(effort: Any) -> Mapping[str, Any]:  # noqa: ANN401 - any JSON value
    """Return the arguments that a request's `reasoning_effort` stands for; none where there is none.

    `none` switches thinking off by the two names that templates have for it, too.

    Raises:
        ValueError: it is none that the OpenAI API knows.
    """
    if effort is None:
        return {}
    if effort not in _EFFORTS:
        raise ValueError(f"`body.{EFFORT}` is {effort!r}, not one of `{'`, `'.join(_EFFORTS)}`")
    return {EFFORT: effort, **({"enable_thinking": False, "thinking": False} if effort == "none" else {})}
