"""LoRA adapters in the engine: merged into plain weights, added as a low-rank product to packed ones.

Read from peft's files without peft, which only training needs.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from endmark.jobs.errors import ModelError
from endmark.jobs.finetuning.adapters import ADAPTER_CONFIG, check_base, fingerprint

_WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


class LowRankLinear(nn.Module):
    """A packed layer and what an adapter adds to it: y = W x + B (A x).

    `down` is A, (rank, in); `up` is B with the adapter's scaling in it, (out, rank).
    """

    def __init__(self, packed: Linear4bit, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.packed = packed
        self.down: Tensor
        self.up: Tensor
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) for (…, in)."""
        y: Tensor = self.packed(x)
        return y + nn.functional.linear(nn.functional.linear(x.to(self.down.dtype), self.down), self.up).to(
            y.dtype
        )


def check_folder(path: str) -> None:
    """Name a missing folder before a hub is asked for it.

    Raises:
        ModelError: it is missing.
    """
    if (path.startswith((".", "/", "~")) or path.count("/") > 1) and not Path(path).is_dir():
        raise ModelError(f"there is no model folder `{path}`", hint="check `--model`: a folder or a hub id")


def model_folder(path: str) -> Path:
    """Return the folder that holds a model's files: its own, or the hub's copy on this machine.

    Raises:
        ModelError: there is neither.
    """
    check_folder(path)
    if Path(path).is_dir():
        return Path(path)
    try:
        found = cached_file(path, "config.json")
    except OSError as error:
        raise ModelError(
            f"cannot load the model `{path}`: {error}", hint="give a folder or a hub id with safetensors weights"
        ) from error
    assert found is not None
    return Path(found).parent


def model_fingerprint(path: str) -> str:
    """Return the fingerprint of a model, given by its folder or hub id."""
    return fingerprint(model_folder(path))


def apply_adapter(network: nn.Module, adapter: str, *, model: str, path: str) -> None:
    """Put an adapter's weights into a loaded network; to be called once its layers are packed or expanded.

    Args:
        network: with `Linear4bit` layers, plain ones, or both.
        adapter: the folder that peft or `endmark finetune` wrote.
        model: what the network's model is called.
        path: its folder or hub id.

    Raises:
        SpecError: the adapter was trained on another model.
        ModelError: it is of a kind that cannot run, or does not fit the network.
    """
    folder = Path(adapter)
    check_base(folder, model, model_folder(path))
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    _refuse_other_kinds(config, folder)
    for name, (down, up) in _read_pairs(folder).items():
        try:
            module = network.get_submodule(name)
        except AttributeError as error:
            raise ModelError(f"the adapter `{adapter}` has weights for `{name}`, which the model lacks") from error
        if not isinstance(module, nn.Linear) or (down.shape[1], up.shape[0]) != (
            module.in_features,
            module.out_features,
        ):
            raise ModelError(f"the adapter `{adapter}` does not fit the model's layer `{name}`")
        _put(network, name, module, down.float(), up.float() * _scaling(config, name, down.shape[0]))


def _put(network: nn.Module, name: str, module: nn.Linear, down: Tensor, up: Tensor) -> None:
    """Add one layer's low-rank product, computed in fp32 where it is merged."""
    device = module.weight.device
    if isinstance(module, Linear4bit):
        dtype = module.compute_dtype or torch.float32
        network.set_submodule(name, LowRankLinear(module, down.to(device, dtype), up.to(device, dtype)))
        return
    delta = up.to(device) @ down.to(device)
    # A parameter of its own: the weight of an output layer may be the embedding's too, which stays as it is.
    merged = (module.weight.float() + delta).to(module.weight.dtype)
    module.weight = nn.Parameter(merged, requires_grad=False)


def _read_pairs(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of each layer.

    Raises:
        ModelError: the file is not there, or holds something else.
    """
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(f"there is no `{_WEIGHTS}` in `{folder}`", hint="save the adapter as safetensors")
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / _WEIGHTS).items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ModelError(f"the adapter `{folder}` holds `{key}`; only LoRA's two matrices a layer can run")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    return {name: (pair["A"], pair["B"]) for name, pair in sides.items()}


def _refuse_other_kinds(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse what is not a plain LoRA adapter of linear layers.

    Raises:
        ModelError: naming what it is.
    """
    kind = config.get("peft_type")
    unknown = [name for name in ("use_dora", "modules_to_save", "fan_in_fan_out") if config.get(name)]
    if config.get("bias", "none") != "none":
        unknown.append("bias")
    if kind != "LORA" or unknown:
        what = f"`{kind}`" if kind != "LORA" else "LoRA with " + ", ".join(f"`{name}`" for name in unknown)
        raise ModelError(f"the adapter `{folder}` is {what}", hint="plain LoRA adapters of linear layers can run")


def _scaling(config: Mapping[str, Any], name: str, rank: int) -> float:
    """Return what peft multiplies a layer's product by."""
    pattern = next((key for key in config.get("alpha_pattern") or {} if re.match(rf"(.*\.)?({key})$", name)), None)
    alpha = float(config["alpha_pattern"][pattern] if pattern is not None else config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
