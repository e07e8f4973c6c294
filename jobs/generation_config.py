"""What a model's own generation_config.json says of sampling, read as transformers' `generate` reads it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.sampling import TABLE

FILE = "generation_config.json"
# What else changes which tokens transformers chooses, with the values that change nothing beside null.
_OTHERS: Mapping[str, Any] = {
    "num_beams": 1,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": 1.0,
    "penalty_alpha": 0.0,
    "diversity_penalty": 0.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "guidance_scale": 1.0,
    "sequence_bias": {},
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "forced_bos_token_id": None,
    "exponential_decay_length_penalty": None,
}


def read_generation_config(folder: Path) -> Mapping[str, Any]:
    """Return the file's values; nothing where the model has none.

    Raises:
        SpecError: the file cannot be read.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read `{path}`: {error}", hint="correct or remove the file") from error
    if not isinstance(values, dict):
        raise SpecError(f"cannot read `{path}`: it is no JSON object", hint="correct or remove the file")
    return values


def own_sampling(config: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of `Sampling` that a generation config sets, and that are not given otherwise.

    Without `do_sample` it is greedy, whatever temperature stands beside it; a penalty counts all the same. Under a
    given temperature of 0 nothing is drawn, under another one the rest is as the config says.

    Args:
        config: values of the file.
        given: values of `Sampling` that the user gave.

    Raises:
        SpecError: a value is out of range.
    """
    given = given or {}
    samples = bool(config.get("do_sample"))
    draws = samples and given.get("temperature") != 0
    found: dict[str, Any] = {}
    for item in TABLE:
        if not item.generation_config or item.name in given or (item.drawing and not draws):
            continue
        value = config.get(item.name)
        if value is None:
            value = item.unset if samples else item.default
        try:
            value = item.kind.from_json(value)
            item.kind.check(item.name, value)
        except (SpecError, TypeError, ValueError) as error:
            raise SpecError(f"the model's {FILE}: {error}", hint=f"give `{item.option}` yourself") from error
        if value != item.default:
            found[item.name] = value
    return found


def passed_over(config: Mapping[str, Any]) -> list[str]:
    """Return what a generation config sets that would change the answers and that Endmark does not do."""
    return [name for name, neutral in _OTHERS.items() if config.get(name) not in (None, neutral)]
