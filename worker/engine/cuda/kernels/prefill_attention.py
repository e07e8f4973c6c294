"""Attention of many new tokens a row over its pages: packed rows, causal, after their keys have been written.

Because the keys are read from the pages, a row whose front is cached already, or that is computed in pieces, is
the same case as any other.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64  # new tokens of one row that a program attends for


class Tiles(NamedTuple):
    """The packed batch cut into tiles, each of one row; (N,) int32 each."""

    slots: Tensor
    begins: Tensor  # of the tile's first token in the packed batch
    counts: Tensor  # tokens in the tile
    positions: Tensor  # of the tile's first token in its row


@triton.jit
def _attend_tile(
    q_ptr, keys, values, tables, slots, begins, counts, positions, out,
    scale, window, softcap, stride_q, table_width, kv_heads, group,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAPPED: tl.constexpr,
):  # fmt: skip
    """One tile, one query head; `scale` is for powers of two."""
    tile, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + tile).to(tl.int64)
    begin = tl.load(begins + tile).to(tl.int64)
    count = tl.load(counts + tile)
    position = tl.load(positions + tile)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    in_d = offs_d < D
    place_q = (begin + offs_m)[:, None] * stride_q + head * D + offs_d[None, :]
    mask_q = (offs_m < count)[:, None] & in_d[None, :]
    q = tl.load(q_ptr + place_q, mask=mask_q, other=0.0)
    own = position + offs_m
    length = position + count
    best = tl.full([BLOCK_M], -1e38, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first = tl.maximum(position - window + 1, 0)
    for start in range(first // BLOCK_N * BLOCK_N, length, BLOCK_N):
        at = start + offs_n
        inside = at < length
        page = tl.load(tables + slot * table_width + at // PAGE, mask=inside, other=0).to(tl.int64)
        place = ((page * kv_heads + head // group) * PAGE + at % PAGE) * D
        mask = inside[:, None] & in_d[None, :]
        k = tl.load(keys + place[:, None] + offs_d[None, :], mask=mask, other=0.0).to(q.dtype)
        v = tl.load(values + place[:, None] + offs_d[None, :], mask=mask, other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if CAPPED:
            scores = softcap * (2.0 / (1.0 + tl.math.exp2(-2.0 * scores * scale / softcap)) - 1.0)
            factor = 1.4426950408889634
        else:
            factor = scale
        seen = (at[None, :] <= own[:, None]) & (at[None, :] > own[:, None] - window) & inside[None, :]
        scores = tl.where(seen, scores, -float("inf"))
        new_best = tl.maximum(best, tl.max(scores, 1) * factor)
        weights = tl.math.exp2(scores * factor - new_best[:, None])
        shrink = tl.math.exp2(best - new_best)
        total = total * shrink + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        best = new_best
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + place_q, acc.to(out.dtype.element_ty), mask=mask_q)


def prefill_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    tiles: Tiles,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return each new token's attention over the tokens of its row up to itself.

    Args:
        query: (T, heads, D), contiguous; the others as in `decode_attention`.
        tiles: of the tokens that are meant; those in none are left out.

    Returns:
        (T, heads, D) of the query's type.
    """
    _, heads, size = query.shape
    kv_heads, page = keys.shape[1], keys.shape[2]
    block = triton.next_power_of_2(size)
    out = torch.empty_like(query) if out is None else out
    wide = query.dtype == torch.float32 or block > 128
    _attend_tile[(len(tiles.slots), heads)](
        query, keys, values, tables, *tiles, out,
        scale * 1.4426950408889634, window or 2**30, float(softcap or 0.0), heads * size, tables.shape[1],
        kv_heads, heads // kv_heads,
        D=size, BLOCK_D=block, PAGE=page, BLOCK_M=TILE, BLOCK_N=32 if wide else 64,
        CAPPED=bool(softcap), num_warps=4, num_stages=1 if wide else 2,
    )  # fmt: skip
    return out
