"""The gate of a feed-forward block: activation(gate) · up, of the merged product of both."""

import torch
import triton
import triton.language as tl
from torch import Tensor

SILU, GELU_TANH = 0, 1


@triton.jit
def _gate(both, out, width, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """A stretch of one token."""
    token = tl.program_id(0).to(tl.int64)
    offs = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < width
    gate = tl.load(both + token * 2 * width + offs, mask=mask, other=0.0)
    up = tl.load(both + token * 2 * width + width + offs, mask=mask, other=0.0)
    x = gate.to(tl.float32)
    if KIND == 0:
        active = x / (1.0 + tl.exp(-x))
    else:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        active = 0.5 * x * (1.0 + (2.0 / (1.0 + tl.exp(-2.0 * inner)) - 1.0))
    result = active.to(gate.dtype).to(tl.float32) * up.to(tl.float32)
    tl.store(out + token * width + offs, result.to(gate.dtype), mask=mask)


def gated(both: Tensor, kind: int) -> Tensor:
    """Return activation(gate) · up.

    Args:
        both: (…, 2 · width), contiguous: the gate, then up.
        kind: SILU or GELU_TANH.

    Returns:
        (…, width).
    """
    width = both.shape[-1] // 2
    out = torch.empty((*both.shape[:-1], width), dtype=both.dtype, device=both.device)
    tokens = both.numel() // both.shape[-1]
    _gate[(tokens, triton.cdiv(width, 1024))](both, out, width, BLOCK=1024, KIND=kind, num_warps=4)
    return out
