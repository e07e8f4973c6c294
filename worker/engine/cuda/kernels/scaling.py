"""Rows in fp8 with a scale each, as the products of fp8 weights take them; see `worker.engine.fp8`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endmark.worker.engine.fp8 import FP8, LARGEST, LEAST, Scaled

_LARGEST = tl.constexpr(LARGEST)
_LEAST = tl.constexpr(LEAST)


@triton.jit
def store_scaled(out_ptr, scale_ptr, row, width, offs, mask, x):
    """Store a whole row of numbers, zeros beside it, in fp8, and its scale.

    Nothing is clamped: no quotient is beyond 448, and a NaN must stay one.
    """
    numbers = x.to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(numbers), 0), _LEAST) / _LARGEST
    tl.store(out_ptr + row * width + offs, (numbers / scale).to(tl.float8e4nv), mask=mask)
    tl.store(scale_ptr + row, scale)


@triton.jit
def _scale(x_ptr, out_ptr, scale_ptr, width, stride, BLOCK: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    offs = tl.arange(0, BLOCK)
    mask = offs < width
    x = tl.load(x_ptr + row * stride + offs, mask=mask, other=0.0)
    store_scaled(out_ptr, scale_ptr, row, width, offs, mask, x)


def row_warps(block: int) -> int:
    """Return how many warps work on a row of so many numbers."""
    return max(1, min(16, block // 512))


def scale_rows(x: Tensor) -> Scaled:
    """Return `x`, (…, width), in fp8 with a scale a row: `worker.engine.fp8.scaled_rows` in one launch."""
    width = x.shape[-1]
    flat = x.reshape(-1, width)
    out = empty_scaled(x.shape, x.device)
    block = triton.next_power_of_2(width)
    _scale[(len(flat),)](
        flat, out.values, out.scale, width, flat.stride(0), BLOCK=block, num_warps=row_warps(block)
    )  # fmt: skip
    return out


def empty_scaled(shape: torch.Size, device: torch.device) -> Scaled:
    """Return room for numbers in fp8 and their scales."""
    rows = shape[:-1].numel()
    return Scaled(
        torch.empty(shape, dtype=FP8, device=device), torch.empty(rows, 1, dtype=torch.float32, device=device)
    )
