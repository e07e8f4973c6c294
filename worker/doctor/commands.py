"""The commands that the doctor's fixes are: ready to copy, with the model and the adapter that were looked at."""

import re
from shlex import quote

from endmark.worker.doctor.evidence import ModelFacts

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def run(facts: ModelFacts, *options: str) -> str:
    """Return the command that runs a dataset with these options."""
    return _joined("endmark run prompts.csv -o answers.csv", _model(facts), *facts.engine, *options)


def look(facts: ModelFacts, *options: str) -> str:
    """Return the command that has the doctor look again."""
    adapter = ("--adapter", quote(facts.adapter)) if facts.adapter else ()
    return _joined("endmark doctor", quote(facts.model), *adapter, *facts.engine, *options)


def train(facts: ModelFacts) -> str:
    """Return the command that trains the model on chats that end."""
    return f"endmark finetune chats.jsonl -o adapter --model {quote(facts.model)}"


def edit(facts: ModelFacts, change: str, file: str = "generation_config.json") -> str:
    """Return the command that changes a file of the model with jq; a model of the hub is copied into a folder.

    Args:
        change: a filter of jq, such as `.eos_token_id = [2, 9]`.
        file: its name in the model's folder.
    """
    folder, before = facts.model, ""
    if _HUB_ID.fullmatch(facts.model):
        folder = f"./{facts.model.rpartition('/')[2]}"
        before = f"hf download {facts.model} --local-dir {folder} && "
    path = quote(f"{folder}/{file}")
    return f"{before}jq {quote(change)} {path} > new.json && mv new.json {path}"


def _model(facts: ModelFacts) -> str:
    """Return the options that name the model and its adapter."""
    return f"--model {quote(facts.model)}" + (f" --adapter {quote(facts.adapter)}" if facts.adapter else "")


def _joined(*parts: str) -> str:
    """Return the parts that there are, as one line."""
    return " ".join(part for part in parts if part)
