"""A model of Llama-2-7B's shape with random weights in NF4, built on the card in seconds."""

import time
from collections.abc import Mapping
from types import MappingProxyType

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    bos_token_id=1,
    eos_token_id=2,
)


OPEN, CLOSE = b"<think>", b"</think>"  # in the made-up vocabulary, behind the special tokens


def words() -> list[bytes]:
    """Return a vocabulary of that size: special tokens, marks of thoughts, a full stop, made-up words."""
    known = [b"", b"", b"", OPEN, CLOSE, b"."]
    letters = (bytes(97 + index // 26**place % 26 for place in range(4)) for index in range(SHAPE.vocab_size))
    return [*known, *(b" " + word for word in letters)][: SHAPE.vocab_size]


def build(
    attention: str,
    *,
    layers: int = 32,
    sizes: Mapping[str, int] = MappingProxyType({}),
    dtype: torch.dtype = torch.bfloat16,
) -> LlamaForCausalLM:
    """Return the model, every linear layer but the head in NF4 with double quantisation.

    Args:
        attention: its name in transformers' registry.
        layers: of the model.
        sizes: entries of its config that are not as of SHAPE.
        dtype: that it computes in.
    """
    started = time.monotonic()
    config = LlamaConfig(**{**SHAPE.to_dict(), "num_hidden_layers": layers, "head_dim": None, **sizes})
    config._attn_implementation = attention
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(dtype)
        network = LlamaForCausalLM(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            network.set_submodule(name, pack(module))
    print(f"built {network.num_parameters():,} parameters in {time.monotonic() - started:.0f} s", flush=True)
    return network


def pack(module: torch.nn.Linear) -> Linear4bit:
    """Return the layer in NF4 with double quantisation."""
    packed = Linear4bit(
        module.in_features,
        module.out_features,
        bias=False,
        compute_dtype=module.weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = Params4bit(
        module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
    ).cuda()
    return packed
