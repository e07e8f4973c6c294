"""RMS norm, with the addition of the residual before it where there is one; in 16 bits or fp8."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endmark.worker.engine.cuda.kernels.scaling import empty_scaled, row_warps, store_scaled
from endmark.worker.engine.fp8 import Scaled


@triton.jit
def _norm(
    x_ptr, residual_ptr, weight_ptr, out_ptr, scale_ptr, sum_ptr, width, stride, eps,
    BLOCK: tl.constexpr, ADD: tl.constexpr, OFFSET: tl.constexpr, FP8: tl.constexpr,
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
    normed = x * tl.math.rsqrt(tl.sum(x * x, 0) / width + eps)
    weight = tl.load(weight_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    if OFFSET:  # Gemma multiplies by one plus the weight, before it rounds
        out = normed * (1.0 + weight)
    else:
        out = normed.to(kind).to(tl.float32) * weight
    out = out.to(kind)
    if FP8:
        store_scaled(out_ptr, scale_ptr, token, width, offs, mask, out)
    else:
        tl.store(out_ptr + token * width + offs, out, mask=mask)


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
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return out, _launch(x, weight, eps, out, None, offset=offset, residual=residual)


def scaled_rms_norm(
    x: Tensor, weight: Tensor, eps: float, *, offset: bool, residual: Tensor | None = None
) -> tuple[Scaled, Tensor]:
    """Return what `rms_norm` does, the norm rounded to x's type and then to fp8 with a scale a token."""
    out = empty_scaled(x.shape, x.device)
    return out, _launch(x, weight, eps, out.values, out.scale, offset=offset, residual=residual)


def _launch(
    x: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor,
    scale: Tensor | None,
    *,
    offset: bool,
    residual: Tensor | None,
) -> Tensor:
    """Fill in `out` (and `scale`); return the sum that was normed."""
    width = x.shape[-1]
    flat = x.reshape(-1, width)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device) if residual is not None else x
    block = triton.next_power_of_2(width)
    _norm[(len(flat),)](
        flat, residual if residual is not None else flat, weight, out, scale if scale is not None else out, total,
        width, flat.stride(0), eps,
        BLOCK=block, ADD=residual is not None, OFFSET=offset, FP8=scale is not None, num_warps=row_warps(block),
    )  # fmt: skip
    return total
