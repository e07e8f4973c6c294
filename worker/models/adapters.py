"""LoRA adapters in the engine: merged into plain weights, added as a low-rank product to packed ones.

Read from peft's files without peft, which only training needs.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from endmark.jobs.errors import ModelError
from endmark.jobs.finetuning.adapters import check_base, fingerprint, read_config
from endmark.jobs.finetuning.lora import WEIGHTS, Pair, read_pairs
from endmark.worker.engine.four_bits import Linear4bit

log = logging.getLogger(__name__)


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
    pairs = read_pairs(folder, read_config(folder))
    layers = {name: _layer(network, name, pair, adapter) for name, pair in pairs.items()}
    tensors = _load(folder)
    _warn_of_no_numbers(tensors, adapter)
    for name, module in layers.items():
        down, up = (tensors[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
        _put(network, name, module, down, up * pairs[name].scaling)


def _layer(network: nn.Module, name: str, pair: Pair, adapter: str) -> nn.Linear:
    """Return the layer that a pair is for.

    Raises:
        ModelError: the network has none of that name, or one of other sizes.
    """
    try:
        module = network.get_submodule(name)
    except AttributeError as error:
        raise ModelError(
            f"the adapter `{adapter}` has weights for `{name}`, which the model lacks",
            hint="it was trained on another model",
        ) from error
    wanted = pair.inputs, pair.outputs
    if not isinstance(module, nn.Linear) or wanted != (module.in_features, module.out_features):
        raise ModelError(
            f"the adapter `{adapter}` does not fit the model's layer `{name}`: it is for {pair.outputs} x "
            f"{pair.inputs}",
            hint="it was trained on another model",
        )
    return module


def _load(folder: Path) -> dict[str, Tensor]:
    """Return the adapter's tensors.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        return load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ModelError(
            f"`{folder / WEIGHTS}` is damaged: {error}", hint="copy or download the adapter again"
        ) from error


def _warn_of_no_numbers(tensors: Mapping[str, Tensor], adapter: str) -> None:
    """Say at once why rows are about to fail; each says so itself, as where a base has such weights."""
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        log.warning(
            "%d of %d tensors of the adapter `%s` hold NaN or infinity, first `%s`: no answer can come of it",
            len(broken),
            len(tensors),
            adapter,
            broken[0],
        )


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
