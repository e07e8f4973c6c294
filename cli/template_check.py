"""Whether a model's chat template takes the turns that a job will give it: asked before the job is stored."""

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from endmark.jobs.errors import SpecError
from endmark.jobs.hub import local_folder
from endmark.jobs.spec import GenerationSpec


class _Refused(Exception):
    """The template has raised its own error; the message is its word."""


def check_template(spec: GenerationSpec) -> None:
    """Refuse what the chat template refuses, or makes nothing of, where the model is on this machine.

    One row is rendered as the worker will render it. What else may go wrong in a template is left to the worker,
    whose rendering counts.

    Raises:
        SpecError: with the template's own words.
    """
    folder = local_folder(spec.model)
    if spec.raw or folder is None:
        return
    values = _read(folder / "tokenizer_config.json")
    text = _template(folder, values)
    if text is None:
        return
    for name in spec.template_args:
        if not re.search(rf"\b{name}\b", text):
            raise SpecError(
                f"the chat template of `{spec.model}` makes nothing of `{name}`",
                hint="leave the argument out; `--system` may say the same, as the model's page has it",
            )
    if "raise_exception" not in text:
        return
    user = {"role": "user", "content": "Hello"}
    system = [] if spec.system is None else [{"role": "system", "content": spec.system}]
    refusal = _refusal(text, values, [*system, user], spec.template_args)
    if refusal is None:
        return
    if system and _refusal(text, values, [user], spec.template_args) is None:
        raise SpecError(
            f"the chat template of `{spec.model}` refuses `--system`: {refusal}",
            hint='leave it out, or put its text into the prompts: `--template "Be brief. {prompt}"`',
        )
    greeted = [{"role": "system", "content": "Hello"}, user]
    if not system and _refusal(text, values, greeted, spec.template_args) is None:
        raise SpecError(
            f"the chat template of `{spec.model}` refuses a prompt without a system turn: {refusal}",
            hint="give one with `--system`",
        )


def _refusal(
    text: str, values: dict[str, Any], turns: list[dict[str, str]], arguments: dict[str, Any]
) -> str | None:
    """Return what the template says against the turns, or None."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _refuse
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    tokens = {name: _text_of(values[name]) for name in names if values.get(name) is not None}
    try:
        environment.from_string(text).render(messages=turns, add_generation_prompt=True, **tokens, **arguments)
    except _Refused as error:
        return str(error)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
        return None  # transformers gives templates more than is given here: what fails here may work there
    return None


def _refuse(message: object) -> None:
    """Raise the template's own error."""
    raise _Refused(str(message))


def _template(folder: Path, values: dict[str, Any]) -> str | None:
    """Return the text of a model's chat template, from where transformers looks for it."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8", errors="replace")
    found = _read(folder / "chat_template.json").get("chat_template", values.get("chat_template"))
    if isinstance(found, list):
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _text_of(token: Any) -> str:  # noqa: ANN401 - text, or an object that holds it
    """Return a special token's text."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if the file holds none, which the worker tells when it loads it."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
