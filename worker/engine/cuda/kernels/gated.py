"""The gate of a feed-forward block: activation(gate) · up, of the merged product of both; in 16 bits or fp8."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endmark.worker.engine.cuda.kernels.scaling import empty_scaled, row_warps, store_scaled
from endmark.worker.engine.fp8 import Scaled

SILU, GELU_TANH = 0, 1


@triton.jit
def _gate(both, out, scale_ptr, width, BLOCK: tl.constexpr, KIND: tl.constexpr, FP8: tl.constexpr):
    """A stretch of one token; in fp8 all of it, for its scale is that of the whole."""
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
    result = (active.to(gate.dtype).to(tl.float32) * up.to(tl.float32)).to(gate.dtype)
    if FP8:
        store_scaled(out, scale_ptr, token, width, offs, mask, result)
    else:
        tl.store(out + token * width + offs, result, mask=mask)


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
    _gate[(tokens, triton.cdiv(width, 1024))](both, out, out, width, BLOCK=1024, KIND=kind, FP8=False, num_warps=4)
    return out


def scaled_gated(both: Tensor, kind: int) -> Scaled:
    """Return what `gated` does, rounded to the type of `both` and then to fp8 with a scale a token."""
    width = both.shape[-1] // 2
    out = empty_scaled(torch.Size((*both.shape[:-1], width)), both.device)
    block = triton.next_power_of_2(width)
    _gate[(len(out.scale), 1)](
        both, out.values, out.scale, width, BLOCK=block, KIND=kind, FP8=True, num_warps=row_warps(block)
    )  # fmt: skip
    return out
