"""NF4 layers kept packed, or expanded once into 16-bit (on CPU fp32) weights of the same values."""

import os

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import nn
from transformers import PreTrainedModel


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
        weight = dequantize_4bit(packed.data, packed.quant_state)
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight.to(kind), requires_grad=False)
        plain.bias = module.bias
        network.set_submodule(name, plain)
    return len(packed_layers), len(packed_layers)


def apply_weights_mode(network: PreTrainedModel, mode: str, reserve: float) -> str:
    """Expand what the mode says; return what it came to: `packed`, `expanded`, or how many layers are.

    Args:
        network: freshly loaded, changed in place.
        mode: `packed`, `expanded` or `auto`: as many layers as fit.
        reserve: bytes of free memory that `auto` leaves for the KV cache and the work.
    """
    if mode == "packed":
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
