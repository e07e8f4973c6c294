"""Checks of the chat template: missing, unused, or put around the prompts twice."""

import re
from shlex import quote

from endmark.worker.doctor import commands
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level

_CHAT_NAME = re.compile(r"chat|instruct|assistant|(?<![a-z])(?:it|rlhf|dpo|sft)(?![a-z])", re.IGNORECASE)


def chat_template_unused(evidence: Evidence) -> Finding | None:
    """The model has a chat template and the prompts went around it."""
    if not evidence.facts.has_chat_template or evidence.templated:
        return None
    return Finding(
        "chat template not used",
        Level.CAUSE if evidence.cut else Level.RISK,
        "The model was trained on its chat template, and the prompts were sent without it",
        f"the tokeniser has a chat template; {evidence.share_cut}",
        "leave out `--raw`; in other code call `tokenizer.apply_chat_template(…, add_generation_prompt=True)`",
        commands.run(evidence.facts),
    )


def chat_template_missing(evidence: Evidence) -> Finding | None:
    """A chat model whose tokeniser has lost its template."""
    facts = evidence.facts
    if facts.has_chat_template or not _CHAT_NAME.search(facts.model):
        return None
    return Finding(
        "no chat template",
        Level.CAUSE if evidence.cut else Level.RISK,
        "The name says chat model, but the tokeniser has no chat template, so prompts arrive bare",
        f"no `chat_template` in the tokeniser's files of `{facts.model}`; {evidence.share_cut}",
        "add the model's chat_template.jinja to its folder, or write the turns into `--template`",
        f"hf download ORIGINAL chat_template.jinja --local-dir {quote(facts.model)}",
    )


def base_model(evidence: Evidence) -> Finding | None:
    """A model that only continues text has no notion of an answer's end."""
    facts = evidence.facts
    if facts.has_chat_template or _CHAT_NAME.search(facts.model) or not evidence.cut:
        return None
    return Finding(
        "base model",
        Level.CAUSE,
        "This looks like a base model: it goes on writing and was not trained to answer and stop",
        f"no chat template, and nothing in the name `{facts.model}` says chat or instruct; {evidence.share_cut}",
        "use the chat or instruct version, or train it on closed answers with `endmark finetune`; until then "
        "`--strategy whole`",
        commands.train(facts),
    )


def template_twice(evidence: Evidence) -> Finding | None:
    """Prompts that hold the template's marks and went through the template once more."""
    marks = [text for text in evidence.facts.token_names.values() if len(text) > 2]
    found = [row for row in evidence.rows if any(mark in row.prompt for mark in marks)]
    if not evidence.templated or not found:
        return None
    mark = next(mark for mark in marks if mark in found[0].prompt)
    return Finding(
        "template twice",
        Level.CAUSE if evidence.cut else Level.RISK,
        "The prompts already hold the chat template's marks, and the template was put around them again",
        f"{len(found)} of {len(evidence.rows)} prompts hold `{mark}`",
        "give `--raw`, or take the marks out of the dataset",
        commands.run(evidence.facts, "--raw"),
    )


def no_generation_prompt(evidence: Evidence) -> Finding | None:
    """A chat template that does not open the answer when it is asked to."""
    opening = evidence.facts.lacking_opening
    if not opening or not evidence.templated:
        return None
    return Finding(
        "no generation prompt",
        Level.CAUSE if evidence.cut else Level.RISK,
        "The chat template does not open the answer, so the model writes the template's own marks, or goes on "
        "with the user's turn",
        f"before an answer in a conversation it writes `{opening}`, and nothing where one is asked for; "
        f"{evidence.share_cut}",
        "end the template with `{% if add_generation_prompt %}` and that text",
        _append(evidence.facts.model, "{% if add_generation_prompt %}" + opening + "\n{% endif %}"),
    )


def _append(model: str, text: str) -> str:
    """Return the command that writes a text behind a model's chat template."""
    return f"printf %s {quote(text)} >> {quote(f'{model}/chat_template.jinja')}"
