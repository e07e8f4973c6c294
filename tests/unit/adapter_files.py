"""Adapter and model folders written with the standard library alone: safetensors with zeros in them."""

import json
from math import prod
from pathlib import Path

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
KEY = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"


def write_tensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """Write a safetensors file whose tensors, given by type and shape, hold zeros."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def whole_pair(layer=0, module="q_proj", rank=8, sizes=(16, 16), dtype="F32"):
    """Return the tensors of one layer's pair, for `write_tensors`."""
    out, inputs = sizes
    return {
        KEY.format(layer, module, "A"): (dtype, [rank, inputs]),
        KEY.format(layer, module, "B"): (dtype, [out, rank]),
    }


def write_adapter(folder: Path, tensors=None, **config) -> Path:
    """Write an adapter's folder, a whole one unless the arguments say otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
        "bias": "none",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(values))
    write_tensors(folder / "adapter_model.safetensors", whole_pair() if tensors is None else tensors)
    return folder


def write_model(folder: Path, sizes=(16, 16), dtype="F32", **config) -> Path:
    """Write a model's folder of one layer's q_proj."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    write_tensors(folder / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": (dtype, list(sizes))})
    return folder
