"""Whether two names mean one model: hub ids, folders, folders of the hub's cache, well-known copies in 4 bits."""

import re
from pathlib import PurePath

from endmark.jobs.settings import DEMO_MODEL

_CACHED = re.compile(r"(?:^|/)models--(?P<id>[^/]+)(?:/|$)")  # a folder of the hub's cache
_BUNDLED = ("worker", "demo", "model")  # how the path of the bundled model ends, wherever Endmark is installed
# Parts of names of folders that say nothing of the model in them: two that are called so may hold any two models.
_SAYS_NOTHING = re.compile(
    r"(?:my|the|base|hf|llm|final|merged|best|last|new|old|test|tmp|out|output|weight|checkpoint|ckpt|step|epoch|run|"
    r"main|snapshot|adapter|lora|model|finetuned|trained)s?\d*|v?\d+|[0-9a-f]{7,64}|"
)
_COPIES = re.compile(r"-(?:(?:unsloth-)?(?:dynamic-)?bnb-(?:4bit|nf4)|4bit|nf4|hf)$")
# Copies whose names leave a part of the original's out.
_SHORT = {
    "mistral-7b": "mistral-7b-v0-1",
    "mistral-7b-instruct": "mistral-7b-instruct-v0-1",
    "solar-10-7b": "solar-10-7b-v1-0",
    "tinyllama": "tinyllama-1-1b-intermediate-step-1431k-3t",
    "tinyllama-chat": "tinyllama-1-1b-chat-v1-0",
    "zephyr-sft": "mistral-7b-sft-beta",
}


def hub_id(name: str) -> str:
    """Return a model's name with a folder of the hub's cache read as the hub id that it stands for.

    `…/models--org--name/snapshots/0a1b…` is `org/name`, and the bundled model's folder its own name.
    """
    name = name.strip().rstrip("/")
    cached = _CACHED.search(name)
    if cached is not None:
        return cached["id"].replace("--", "/", 1)
    return DEMO_MODEL if PurePath(name).parts[-3:] == _BUNDLED else name


def same_model(one: str, other: str) -> bool:
    """Whether two names mean one model, as far as names tell.

    Owners and folders are not compared, since a model may lie in any folder and be copied: the last parts are, in
    any case and without what marks a copy in 4 bits. A last part that says nothing, like `model`, is no sign.
    """
    first, second = hub_id(one).lower(), hub_id(other).lower()
    if first == second:
        return True
    key = model_key(first)
    return key == model_key(second) and not all(map(_SAYS_NOTHING.fullmatch, key.split("-")))


def model_key(name: str) -> str:
    """Return what the last part of a model's name says of it, without the marks of copies."""
    key = re.sub(r"[._\s]+", "-", hub_id(name).lower().rsplit("/", 1)[-1])
    while (shorter := _COPIES.sub("", key)) != key:
        key = shorter
    key = key.removeprefix("meta-")
    return _SHORT.get(key, key)
