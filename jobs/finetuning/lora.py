"""What a LoRA adapter's files hold: kinds that would be computed otherwise than in training are refused here.

Told from its config and the header of its weights alone, so that a job is refused before it is stored.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endmark.jobs.errors import ModelError
from endmark.jobs.finetuning.tensors import Stored, read_header

WEIGHTS = "adapter_model.safetensors"
OTHER_WEIGHTS = "adapter_model.bin"  # of older peft: a pickle, which may run anything when it is read
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_PLAIN = "plain LoRA adapters of linear layers can run"
_MERGE = (
    f"{_PLAIN}; peft's `merge_and_unload()` puts another kind into a copy of its model, to be given as `--model`"
)
_LEARNT_PROMPTS = (
    "TUNING",
    "PROMPT",
)  # ends of peft's names for kinds that add to the prompt: no weights to merge
_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_LARGEST = 3.4e38  # that fp32 holds
_SAVED = "give the folder the adapter_config.json that it was saved with"
_COPY = "copy or save it again"
# Ways to begin that leave the base as it is: what is trained is all that is added. peft's others take a part of
# the base's weights out of them (pissa, olora, corda, lora_ga) or put other ones in their place (loftq).
_HONEST_STARTS = frozenset((None, True, False, "gaussian", "eva", "orthogonal", "mica"))
# What changes nothing in the answers of a trained adapter, whatever its value.
_PASSING = frozenset(
    ("task_type", "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
     "peft_version", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
     "init_lora_weights",
     "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core",
     "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config", "qalora_group_size",
     "runtime_config", "unsloth_fixed")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """The two matrices of one layer: A is (rank, in), B is (out, rank), and the product counts with `scaling`."""

    rank: int
    inputs: int
    outputs: int
    scaling: float


def read_pairs(folder: Path, config: Mapping[str, Any]) -> dict[str, Pair]:
    """Return what an adapter has for each layer, by the layer's name in the model.

    Args:
        folder: the adapter's.
        config: its adapter_config.json.

    Raises:
        ModelError: it is of a kind that cannot run, holds no weights, or not whole pairs of matrices.
    """
    refuse_other_kinds(config, folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"there is no `{WEIGHTS}` in `{folder}`", hint="save the adapter as safetensors")
    sides: dict[str, dict[str, Stored]] = {}
    for key, stored in read_header(path).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ModelError(
                f"the adapter `{folder}` holds `{key}`; only LoRA's two matrices a layer can run", hint=_MERGE
            )
        if len(stored.shape) != 2 or not stored.count or stored.dtype not in _FLOATS:
            what = f"of type {stored.dtype} and shape {list(stored.shape)}"
            raise ModelError(
                f"the adapter `{folder}` holds `{key}` {what}, which is no matrix of LoRA", hint=_COPY
            )
        sides.setdefault(match["module"], {})[match["side"]] = stored
    if not sides:
        raise ModelError(
            f"the adapter `{folder}` holds no weights, so it would answer as its base model",
            hint="look at how it was saved: `model.save_pretrained` of the peft model writes them",
        )
    return {name: _pair(folder, config, name, found) for name, found in sides.items()}


def check_shapes(folder: Path, pairs: Mapping[str, Pair], base: Mapping[str, Stored]) -> None:
    """Refuse an adapter whose matrices do not fit the base's weights, as far as its files tell.

    Args:
        folder: the adapter's.
        pairs: what it has for each layer.
        base: the tensors of the base's files. Packed ones have no shapes, others may be stored under other names;
            those are looked at when the model is loaded.

    Raises:
        ModelError: a layer has other sizes.
    """
    for name, pair in pairs.items():
        weight = base.get(f"{name}.weight")
        if weight is None or len(weight.shape) != 2 or weight.dtype not in _FLOATS:
            continue
        if (pair.outputs, pair.inputs) != weight.shape:
            raise ModelError(
                f"the adapter `{folder}` does not fit the model's layer `{name}`: it is for {pair.outputs} x "
                f"{pair.inputs}, and the layer is {weight.shape[0]} x {weight.shape[1]}",
                hint="it was trained on another model",
            )


def refuse_other_kinds(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what is not a plain LoRA adapter of linear layers over the base as it is.

    Raises:
        ModelError: naming what it is.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        mergeable = not str(kind).endswith(_LEARNT_PROMPTS)
        what = "names no `peft_type`" if kind is None else f"is `{kind}`"
        raise ModelError(f"the adapter `{folder}` {what}", hint=_MERGE if mergeable else _PLAIN)
    start = config.get("init_lora_weights")
    start = start.lower() if isinstance(start, str) else start
    if not isinstance(start, str | bool | None) or start not in _HONEST_STARTS:
        raise ModelError(
            f"the adapter `{folder}` begins with `{start}`, which changes the base model's weights: over the "
            "whole ones it would be computed wrong",
            hint="convert it to plain LoRA with peft: `model.save_pretrained(DIR, "
            "path_initial_model_for_weight_conversion=START)`, START being the adapter before its training; or "
            "give `--model` a folder of the changed base and set `init_lora_weights` to true",
        )
    others = [name for name, value in config.items() if name not in _PASSING and value and value != "none"]
    if others:
        named = ", ".join(f"`{name}`" for name in others)
        raise ModelError(
            f"the adapter `{folder}` is LoRA with {named}",
            hint=f"{_MERGE}; what changes no answer may be taken out of its adapter_config.json",
        )


def _pair(folder: Path, config: Mapping[str, Any], name: str, found: Mapping[str, Stored]) -> Pair:
    """Return a layer's pair.

    Raises:
        ModelError: one of the two is missing, or they do not fit each other or the config.
    """
    if len(found) < 2:
        raise ModelError(
            f"the adapter `{folder}` has half a pair for `{name}`: `lora_{'AB'['A' in found]}` is missing",
            hint="it was not saved whole: save it again",
        )
    down, up = found["A"], found["B"]
    rank = int(_number(folder, config, name, "rank_pattern", "r"))
    if not down.shape[0] == up.shape[1] == rank:
        raise ModelError(
            f"the adapter `{folder}` has matrices of {list(down.shape)} and {list(up.shape)} for `{name}`, and "
            f"its config says rank {rank}",
            hint=_SAVED,
        )
    alpha = _number(folder, config, name, "alpha_pattern", "lora_alpha")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if abs(scaling) > _LARGEST:
        raise ModelError(
            f"the adapter `{folder}` counts for `{name}` with {scaling:.3g}: no answer can come of that",
            hint=_SAVED,
        )
    return Pair(rank, down.shape[1], up.shape[0], scaling)


def _number(folder: Path, config: Mapping[str, Any], name: str, pattern: str, otherwise: str) -> float:
    """Return a layer's rank or alpha as peft finds it: of the first pattern that its name ends with.

    Raises:
        ModelError: there is none, or it is 0.
    """
    value = config.get(otherwise, 8)
    try:
        patterns = dict(config.get(pattern) or {})
        value = next((patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", name)), value)
        if not isinstance(value, int | float | str):
            raise TypeError("which is no number")
        number = float(value)
        if not number or not math.isfinite(number):
            raise ValueError("with it the adapter adds nothing")
    except (ValueError, TypeError, OverflowError, re.error) as error:
        raise ModelError(
            f"the adapter `{folder}` has a `{otherwise}` for `{name}` that cannot be used: {json.dumps(value)}, "
            f"{error}",
            hint=_SAVED,
        ) from error
    return number
