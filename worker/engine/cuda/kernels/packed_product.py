"""Products of few rows with NF4 weights that stay packed: unpacked in registers, on their way to the product.

The weights lie in blocks of 64 along the input (bitsandbytes' own blocks), all outputs of a block side by side. A
byte holds values 32 apart, so that what it unpacks into meets neighbours of the input. A block's scale is packed
too, as bitsandbytes does it: a code of 256, a factor for each 256 of them, an offset.
"""

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64  # weights that share a scale
_HALF: tl.constexpr = tl.constexpr(BLOCK // 2)
_NESTED: tl.constexpr = tl.constexpr(256)  # scales that share a factor
_PROGRAMS = 528  # four for each multiprocessor of a large card


class PackedWeight(NamedTuple):
    """A packed (N, K) weight; B = K // 64."""

    codes: Tensor  # (B, N, 32) uint8; a byte's upper half is value j of the block, its lower one value j + 32
    scale_codes: Tensor  # (B, N) uint8
    scale_levels: Tensor  # (256,) fp32
    scale_factors: Tensor  # (ceil(N * B / 256), 2) fp32: factor and offset, for scales in the order (N, B)
    levels: Tensor  # (16,) fp32
    outputs: int

    @property
    def inputs(self) -> int:
        """K."""
        return self.codes.shape[0] * BLOCK


@triton.jit
def _scales(block, outputs, valid, blocks, scale_codes_ptr, scale_levels_ptr, scale_factors_ptr, N):
    """Return the fp32 scales of one block of the input, for these outputs."""
    code = tl.load(scale_codes_ptr + block * N + outputs, mask=valid, other=0)
    place = (outputs * blocks + block) // _NESTED
    factor = tl.load(scale_factors_ptr + 2 * place, mask=valid, other=0.0)
    offset = tl.load(scale_factors_ptr + 2 * place + 1, mask=valid, other=0.0)
    return tl.load(scale_levels_ptr + code) * factor + offset


@triton.jit
def _product(
    x_ptr, codes_ptr, scale_codes_ptr, scale_levels_ptr, scale_factors_ptr, levels_ptr, out_ptr,
    rows, stride, blocks, N, per_part,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, UNPACK: tl.constexpr,
):  # fmt: skip
    """Some outputs of all rows, over one part of the input."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    part = tl.program_id(1)
    row = tl.arange(0, ROWS)
    half = tl.arange(0, _HALF)
    valid = outputs < N
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for block in range(part * per_part, tl.minimum((part + 1) * per_part, blocks)):
        at = (block * N + outputs[:, None]) * _HALF + half[None, :]
        codes = tl.load(codes_ptr + at, mask=valid[:, None], other=0)
        x_at = x_ptr + row[None, :] * stride + block * (2 * _HALF) + half[:, None]
        first = tl.load(x_at, mask=row[None, :] < rows, other=0.0)
        second = tl.load(x_at + _HALF, mask=row[None, :] < rows, other=0.0)
        if UNPACK == "":
            upper = tl.load(levels_ptr + (codes >> 4)).to(first.dtype)
            lower = tl.load(levels_ptr + (codes & 15)).to(first.dtype)
        else:
            upper, lower = tl.inline_asm_elementwise(
                UNPACK, "=r,=r,=r,=r,r", [codes], dtype=(first.dtype, first.dtype), is_pure=True, pack=4
            )
        scale = _scales(block, outputs, valid, blocks, scale_codes_ptr, scale_levels_ptr, scale_factors_ptr, N)
        total += tl.dot(lower, second, tl.dot(upper, first)) * scale[:, None]
    to = out_ptr + (part * rows + row[None, :]) * N + outputs[:, None]
    tl.store(to, total.to(out_ptr.dtype.element_ty), mask=valid[:, None] & (row[None, :] < rows))


@triton.jit
def _add_parts(parts_ptr, out_ptr, size, parts, SIZE: tl.constexpr):
    """Add up what the parts of the input have come to, always in the same order."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for part in range(parts):
        total += tl.load(parts_ptr + part * size + at, mask=at < size, other=0.0)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < size)


@triton.jit
def _unpack(
    codes_ptr, scale_codes_ptr, scale_levels_ptr, scale_factors_ptr, levels_ptr, out_ptr, blocks, N,
    OUTPUTS: tl.constexpr,
):  # fmt: skip
    """One block of the input for some outputs."""
    block = tl.program_id(1)
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    half = tl.arange(0, _HALF)
    valid = outputs < N
    codes = tl.load(
        codes_ptr + (block.to(tl.int64) * N + outputs[:, None]) * _HALF + half[None, :],
        mask=valid[:, None],
        other=0,
    )
    scale = _scales(block, outputs, valid, blocks, scale_codes_ptr, scale_levels_ptr, scale_factors_ptr, N)[
        :, None
    ]
    kind = out_ptr.dtype.element_ty
    to = out_ptr + (outputs[:, None].to(tl.int64) * blocks + block) * (2 * _HALF) + half[None, :]
    tl.store(to, (tl.load(levels_ptr + (codes >> 4)) * scale).to(kind), mask=valid[:, None])
    tl.store(to + _HALF, (tl.load(levels_ptr + (codes & 15)) * scale).to(kind), mask=valid[:, None])


def packed_product(x: Tensor, weight: PackedWeight) -> Tensor:
    """Return (M, N), the product of `x` (M, K) with a packed weight (N, K), for few rows (M at most 128 or so).

    Args:
        x: bf16 or fp16, its last dimension contiguous. Its type is the levels', too; scales and sums are fp32.
        weight: packed.
    """
    rows, blocks, n = len(x), len(weight.codes), weight.outputs
    wide = 128 if n >= 2048 and rows <= 32 else 64
    tiles = triton.cdiv(n, wide)
    parts = max(1, min(_PROGRAMS // tiles, blocks // 4))
    per_part = triton.cdiv(blocks, parts)
    parts = triton.cdiv(blocks, per_part)
    out = torch.empty(rows, n, dtype=x.dtype, device=x.device)
    sums = out if parts == 1 else torch.empty(parts, rows, n, dtype=torch.float32, device=x.device)
    _product[(tiles, parts)](
        x, weight.codes, weight.scale_codes, weight.scale_levels, weight.scale_factors, weight.levels, sums,
        rows, x.stride(0), blocks, n, per_part,
        ROWS=max(16, triton.next_power_of_2(rows)), OUTPUTS=wide, UNPACK=_unpacking(x.dtype, x.is_cuda),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    if parts > 1:
        size = rows * n
        _add_parts[(triton.cdiv(size, 512),)](sums, out, size, parts, SIZE=512, num_warps=4)
    return out


def unpack(weight: PackedWeight, kind: torch.dtype) -> Tensor:
    """Return the (N, K) weight in a type, the same values as bitsandbytes unpacks."""
    out = torch.empty(weight.outputs, weight.inputs, dtype=kind, device=weight.codes.device)
    blocks = len(weight.codes)
    _unpack[(triton.cdiv(weight.outputs, 64), blocks)](
        weight.codes, weight.scale_codes, weight.scale_levels, weight.scale_factors, weight.levels, out,
        blocks, weight.outputs, OUTPUTS=64, num_warps=4,
        enable_fp_fusion=False,  # bitsandbytes rounds before it adds the offset
    )  # fmt: skip
    return out


@cache
def _unpacking(kind: torch.dtype, on_card: bool) -> str:
    """Return PTX that turns 4 bytes into the levels of their upper, and of their lower halves; "": by a table.

    `prmt` picks 4 bytes out of 8 by 4 numbers of 4 bits, of which 3 count: a table of 16 takes two, and a mask
    made of the fourth bit chooses. High and low bytes of the levels are looked up apart and then put together.
    """
    if not on_card or kind.itemsize != 2 or torch.version.hip is not None:
        return ""
    levels = torch.tensor(LEVELS).to(kind).view(torch.int16).tolist()
    tables = []
    for shift in (8, 0):
        data = bytes(level >> shift & 255 for level in levels)
        tables.append([int.from_bytes(data[begin : begin + 4], "little") for begin in (0, 4, 8, 12)])
    lines = ["{", ".reg .b32 s, t, a, b, m, h, l;"]
    lines += ["and.b32 s, $4, 0x77777777;", "shr.u32 t, $4, 3;", "and.b32 t, t, 0x11111111;"]
    for half in (0, 1):
        if half:
            lines += ["shr.u32 s, s, 16;", "shr.u32 t, t, 16;"]
        lines.append("prmt.b32 m, 0x0000ff00, 0, t;")
        for name, table in zip("hl", tables, strict=True):
            lines.append("prmt.b32 a, {:#x}, {:#x}, s;".format(*table[:2]))
            lines.append("prmt.b32 b, {:#x}, {:#x}, s;".format(*table[2:]))
            lines.append(f"lop3.b32 {name}, m, b, a, 0xca;")
        lines.append(f"prmt.b32 ${half}, l, h, 0x7351;")  # upper halves: bytes 1 and 3
        lines.append(f"prmt.b32 ${half + 2}, l, h, 0x6240;")
    return "\n".join([*lines, "}"])


# NF4's levels (Dettmers et al. 2023, QLoRA, appendix E)
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
