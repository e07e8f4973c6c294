"""RMS norm, with the addition of the residual before it where there is one."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, width, stride, eps,
    BLOCK: tl.constexpr, ADD: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """One token."""
    token = tl.program_id(0).to(tl.int64)
    offs = tl.arange(0, BLOCK)
    mask = offs < width
    x = tl.load(x_ptr + token * stride + offs, mask=mask, other=0.0)
    kind = x.dtype
    if ADD:
        residual = tl.load(residual_ptr + token * width + offs, mask=mask, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(kind)
        tl.store(sum_ptr + token * width + offs, x, mask=mask)
    x = x.to(tl.float32)
    scaled = x * tl.math.rsqrt(tl.sum(x * x, 0) / width + eps)
    weight = tl.load(weight_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if OFFSET:  # Gemma multiplies by one plus the weight, before it rounds
        out = scaled * (1.0 + weight)
    else:
        out = scaled.to(kind).to(tl.float32) * weight
    tl.store(out_ptr + token * width + offs, out.to(kind), mask=mask)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, offset: bool, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the norm of `x` (plus `residual`), and that sum.

    Args:
        x: (…, width) with the last dimension contiguous and one stride for all tokens.
        weight: (width,).
        offset: whether one is added to the weight, as Gemma does.
        residual: of x's shape, contiguous.
    """
    width = x.shape[-1]
    flat = x.reshape(-1, width)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty_like(out) if residual is not None else x
    block = triton.next_power_of_2(width)
    _norm[(len(flat),)](
        flat, residual if residual is not None else flat, weight, out, total, width, flat.stride(0), eps,
        BLOCK=block, ADD=residual is not None, OFFSET=offset, num_warps=max(1, min(16, block // 512)),
    )  # fmt: skip
    return out, total
