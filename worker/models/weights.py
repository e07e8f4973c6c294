"""How a model's weights are kept: NF4 packed, expanded to 16 bits (on a CPU fp32), in fp8, or on a CPU in bf16."""

import os

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from endmark.jobs.engines import CPU_WEIGHTS, GPU_WEIGHTS, check_device
from endmark.jobs.errors import ModelError
from endmark.worker.engine.cpu.products import RoundedLinear
from endmark.worker.engine.four_bits import Linear4bit, Params4bit, dequantize_4bit
from endmark.worker.engine.fp8 import CAPABILITY, Fp8Linear, scaled_rows
from endmark.worker.models.adapters import LowRankLinear

FP8, FP8_ORIGINAL = FP8_MODES = GPU_WEIGHTS  # of the NF4 values, and of the weights in the model's own files
(BF16,) = CPU_WEIGHTS  # of the NF4 values
ROUNDED_MODES = (*FP8_MODES, BF16)  # in which weights are rounded: an adapter must have been added before


def expand(network: nn.Module, room: float = float("inf")) -> tuple[int, int]:
    """Replace NF4 layers, in the model's order, by plain ones that hold the same, dequantised values.

    Args:
        network: changed in place.
        room: bytes that the plain weights may take more than the packed ones do.

    Returns:
        Layers expanded, and layers that were packed before.
    """
    packed_layers = [(name, item) for name, item in network.named_modules() if isinstance(item, Linear4bit)]
    for count, (name, module) in enumerate(packed_layers):
        packed = module.weight
        assert isinstance(packed, Params4bit)
        kind = module.compute_dtype or torch.float32
        room -= module.in_features * module.out_features * kind.itemsize - packed.numel() * packed.element_size()
        if room < 0:
            return count, len(packed_layers)
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(_numbers(module).to(kind), requires_grad=False)
        plain.bias = module.bias
        network.set_submodule(name, plain)
    return len(packed_layers), len(packed_layers)


def scale_to_fp8(network: PreTrainedModel) -> tuple[int, int]:
    """Replace all linear layers but the output layer by such as multiply in fp8.

    A layer whose sizes are no multiples of 16 becomes a plain one of 16 bits. An adapter's product is added before
    the rounding, so it must have been put into the network already.

    Args:
        network: changed in place, a layer at a time.

    Returns:
        Layers in fp8, and all.
    """
    layers = _inner_layers(network)
    done = 0
    for name, module in layers.items():
        weight = _numbers(module)
        base = module.packed if isinstance(module, LowRankLinear) else module
        if fits := Fp8Linear.takes(base.in_features, base.out_features):
            network.set_submodule(name, Fp8Linear(scaled_rows(weight), base.bias, network.dtype))
        else:
            plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
            plain.weight, plain.bias = nn.Parameter(weight.to(network.dtype), requires_grad=False), base.bias
            network.set_submodule(name, plain)
        done += fits
    return done, len(layers)


def round_to_bf16(network: PreTrainedModel) -> None:
    """Replace all linear layers but the output layer by such as multiply in bf16 on a CPU.

    An adapter must have been put into the network already.

    Args:
        network: changed in place, a layer at a time.
    """
    for name, module in _inner_layers(network).items():
        base = module.packed if isinstance(module, LowRankLinear) else module
        network.set_submodule(name, RoundedLinear(_numbers(module), base.bias))


def _inner_layers(network: PreTrainedModel) -> dict[str, nn.Linear | LowRankLinear]:
    """Return all linear layers but the output layer by name; those that an adapter holds are not apart from it."""
    head = network.get_output_embeddings()
    kept = (nn.Linear, LowRankLinear)
    layers = {name: item for name, item in network.named_modules() if isinstance(item, kept) and item is not head}
    return {name: item for name, item in layers.items() if name.rpartition(".")[0] not in layers}


def _numbers(module: nn.Module) -> Tensor:
    """Return what a layer multiplies by, (out, in), an adapter's product included."""
    if isinstance(module, LowRankLinear):
        return _numbers(module.packed).float() + module.up.float() @ module.down.float()
    weight = module.weight
    if isinstance(weight, Params4bit):
        numbers: Tensor = dequantize_4bit(weight.data, weight.quant_state)
        return numbers
    assert isinstance(weight, Tensor)
    return weight.data


def check_mode(mode: str, device: str) -> None:
    """Refuse rounded weights where nothing multiplies them, before gigabytes are read.

    Raises:
        UsageError: the device is of the other kind.
        ModelError: this one cannot, or gains nothing.
    """
    check_device(mode, on_gpu=device == "cuda")
    if mode in FP8_MODES:
        _check_fp8()
    elif mode == BF16:
        _check_bf16()


def _check_fp8() -> None:
    """Refuse fp8 weights on a GPU that does not multiply them.

    Raises:
        ModelError: naming the reason.
    """
    found = torch.cuda.get_device_capability()
    if found < CAPABILITY:
        raise ModelError(
            "weights in fp8 need a GPU that multiplies in that type, and this one has compute capability "
            f"{found[0]}.{found[1]}, not 8.9 (Ada, Hopper) or more",
            hint="leave `--weights` out: as many weights as fit are then expanded to 16 bits",
        )


def _check_bf16() -> None:
    """Refuse bf16 weights on a CPU that gains nothing by them.

    Raises:
        ModelError: naming the reason.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        raise ModelError(
            "this processor has no products of bf16 (AVX512-BF16 or AMX), so bf16 weights would make it slower",
            hint="leave `--weights` out: products are then in fp32",
        )


def check_original(network: PreTrainedModel, model: str) -> None:
    """Refuse a model whose own files are in 4 bits: there is no original to take.

    Raises:
        ModelError: they are.
    """
    if any(isinstance(module, Linear4bit) for module in network.modules()):
        raise ModelError(
            f"`--weights {FP8_ORIGINAL}` wants 16-bit weights, and the files of `{model}` are in 4 bits",
            hint=f"take `--weights {FP8}`, or the model from which they were made",
        )


def apply_weights_mode(network: PreTrainedModel, mode: str, reserve: float) -> str:
    """Expand or scale what the mode says; return what it came to: the mode, or how many layers are so.

    Args:
        network: freshly loaded, changed in place.
        mode: `packed`, `expanded`, `fp8`, `fp8-original`, `bf16`, or `auto`: expands as many layers as fit.
        reserve: bytes of free memory that `auto` leaves for the KV cache and the work.
    """
    if mode == "packed":
        return mode
    if mode in FP8_MODES:
        done, total = scale_to_fp8(network)
        return mode if done == total else f"{mode}, {done} of {total} layers"
    if mode == BF16:
        round_to_bf16(network)
        return mode
    done, total = expand(network, free_memory(network.device) - reserve if mode == "auto" else float("inf"))
    if done == total:
        return "expanded"
    return f"{done} of {total} layers expanded" if done else "packed"


def free_memory(device: torch.device) -> float:
    """Return the bytes that can be taken on a device, those that torch keeps for itself included."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
