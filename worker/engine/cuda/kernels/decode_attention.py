"""Attention of one new token a row over its pages, with split KV where few rows run.

The cache is laid out (pages, KV heads, page size, head size), so that what one program reads of a page is one
contiguous piece. Where every head has its own keys a program is a single warp and multiplies without the matrix
unit: the card's copy speed is the limit, and many small programs reach it. Programs start in the order of the
rows: with the longest row first (`worker.engine.scheduler`) the card does not wait for it at the end.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from endmark.worker.engine.fp8 import FP8

_PROGRAMS = 132 * 20  # enough to keep every multiprocessor of the largest cards busy
_MOST_SPLITS = 64


@triton.jit
def _attend_one(
    q_ptr, keys, values, tables, slots, lengths, out, lse_ptr,
    scale, window, softcap,
    stride_q, table_width, kv_heads,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One query head with keys of its own: program (head, row, split)."""
    head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots + row).to(tl.int64)
    length = tl.load(lengths + row) + 1
    first = tl.maximum(length - window, 0)
    first_page = first // PAGE
    chunk = tl.cdiv(tl.cdiv(length, PAGE) - first_page, SPLITS)
    begin = first_page + split * chunk
    end = tl.minimum(begin + chunk, tl.cdiv(length, PAGE))
    offs_d = tl.arange(0, BLOCK_D)
    in_d = offs_d < D
    q = (
        tl.load(q_ptr + row.to(tl.int64) * stride_q + head * D + offs_d, mask=in_d, other=0.0).to(tl.float32)
        * scale
    )
    offs_n = tl.arange(0, PAGE)
    tile = offs_n[:, None] * D + offs_d[None, :]
    best = -float("inf")
    total = 0.0
    acc = tl.zeros([BLOCK_D], tl.float32)
    for index in range(begin, end):
        page = tl.load(tables + slot * table_width + index).to(tl.int64)
        base = (page * kv_heads + head) * (PAGE * D)
        at = index * PAGE + offs_n
        mask = (at < length)[:, None] & in_d[None, :]
        k = tl.load(keys + base + tile, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(values + base + tile, mask=mask, other=0.0).to(tl.float32)
        scores = tl.sum(k * q[None, :], 1)
        if softcap > 0:
            scores = softcap * (2.0 / (1.0 + tl.exp(-2.0 * scores / softcap)) - 1.0)
        scores = tl.where((at < length) & (at >= first), scores, -float("inf"))
        new_best = tl.maximum(best, tl.max(scores, 0))
        weights = tl.exp(scores - new_best)
        shrink = tl.exp(best - new_best)
        total = total * shrink + tl.sum(weights, 0)
        acc = acc * shrink + tl.sum(weights[:, None] * v, 0)
        best = new_best
    place = (row.to(tl.int64) * tl.num_programs(0) + head) * SPLITS + split
    safe = tl.where(total > 0, total, 1.0)
    tl.store(out + place * D + offs_d, (acc / safe).to(out.dtype.element_ty), mask=in_d)
    if SPLITS > 1:
        tl.store(lse_ptr + place, tl.where(total > 0, best + tl.log(safe), -float("inf")))


@triton.jit
def _in_fp16(q):
    """Return queries in fp16, divided by the largest number of each, so that no sum is too large, and that.

    A card makes fp16 of two fp8 numbers in one instruction, exactly; bf16 would come by way of fp32.
    """
    wide = q.to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(wide), 1), 1e-30)
    return (wide / largest[:, None]).to(tl.float16), largest


@triton.jit
def _attend_group(
    q_ptr, keys, values, tables, slots, lengths, out, lse_ptr,
    scale, window, softcap,
    stride_q, table_width, kv_heads,
    G: tl.constexpr, BLOCK_G: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, FP16: tl.constexpr,
):  # fmt: skip
    """The G query heads that share one head of keys, on the matrix unit: program (KV head, row, split)."""
    head, row, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots + row).to(tl.int64)
    length = tl.load(lengths + row) + 1
    first = tl.maximum(length - window, 0)
    first_block = first // BLOCK_N
    blocks = tl.cdiv(length, BLOCK_N)
    chunk = tl.cdiv(blocks - first_block, SPLITS)
    begin = first_block + split * chunk
    end = tl.minimum(begin + chunk, blocks)
    offs_d, offs_g, offs_n = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_N)
    in_d = offs_d < D
    in_g = offs_g < G
    heads = head * G + offs_g
    q = tl.load(
        q_ptr + row.to(tl.int64) * stride_q + heads[:, None] * D + offs_d[None, :],
        mask=in_g[:, None] & in_d[None, :],
        other=0.0,
    )
    factor = tl.full([BLOCK_G], 1.0, tl.float32) * scale
    if FP16:
        q, largest = _in_fp16(q)
        factor *= largest
    best = tl.full([BLOCK_G], -1e38, tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    acc = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    for index in range(begin, end):
        at = index * BLOCK_N + offs_n
        inside = at < length
        page = tl.load(tables + slot * table_width + at // PAGE, mask=inside, other=0).to(tl.int64)
        place = ((page * kv_heads + head) * PAGE + at % PAGE) * D
        mask = inside[:, None] & in_d[None, :]
        k = tl.load(keys + place[:, None] + offs_d[None, :], mask=mask, other=0.0).to(q.dtype)
        v = tl.load(values + place[:, None] + offs_d[None, :], mask=mask, other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * factor[:, None]
        if softcap > 0:
            scores = softcap * (2.0 / (1.0 + tl.exp(-2.0 * scores / softcap)) - 1.0)
        scores = tl.where((inside & (at >= first))[None, :], scores, -float("inf"))
        new_best = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp(scores - new_best[:, None])
        shrink = tl.exp(best - new_best)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = new_best
    place = (row.to(tl.int64) * (kv_heads * G) + heads) * SPLITS + split
    safe = tl.where(total > 0, total, 1.0)
    tl.store(
        out + place[:, None] * D + offs_d[None, :],
        (acc / safe[:, None]).to(out.dtype.element_ty),
        mask=in_g[:, None] & in_d[None, :],
    )
    if SPLITS > 1:
        tl.store(lse_ptr + place, tl.where(total > 0, best + tl.log(safe), -float("inf")), mask=in_g)


@triton.jit
def _merge_splits(
    parts, lse_ptr, out, D: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Weigh the splits of one head of one row together."""
    place = tl.program_id(0).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    offs_s = tl.arange(0, BLOCK_S)
    lse = tl.load(lse_ptr + place * SPLITS + offs_s, mask=offs_s < SPLITS, other=-float("inf"))
    weights = tl.exp(lse - tl.max(lse, 0))
    mask = (offs_s < SPLITS)[:, None] & (offs_d < D)[None, :]
    part = tl.load(parts + (place * SPLITS + offs_s)[:, None] * D + offs_d[None, :], mask=mask, other=0.0)
    merged = tl.sum(part * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + place * D + offs_d, merged.to(out.dtype.element_ty), mask=offs_d < D)


def splits_for(rows: int, kv_heads: int) -> int:
    """Return into how many pieces the keys of a row are cut, so that few rows fill the card too."""
    splits = 1
    while splits < _MOST_SPLITS and rows * kv_heads * splits * 2 <= _PROGRAMS:
        splits *= 2
    return splits


def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    slots: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    splits: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return the attention of one new token a row over its cached ones, its own included.

    Args:
        query: (R, heads, D), contiguous.
        keys: (pages, KV heads, page size, D), as `values`; of any type that Triton converts.
        tables: (slots, W) int32, the page tables.
        slots: (R,) int32.
        lengths: (R,) int32: cached tokens before the new one.
        window: tokens that are seen, the new one included; all by default.
        softcap: bound of the scores, as Gemma 2 has it.
        splits: see `splits_for`.
        out: where the result is to be written, contiguous.

    Returns:
        (R, heads, D) of the query's type.
    """
    rows, heads, size = query.shape
    kv_heads, page = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    splits = splits or splits_for(rows, kv_heads)
    out = torch.empty_like(query) if out is None else out
    parts = query.new_empty((rows, heads, splits, size), dtype=torch.float32) if splits > 1 else out
    lse = query.new_empty((rows, heads, splits) if splits > 1 else (1,), dtype=torch.float32)
    block = triton.next_power_of_2(size)
    grid = (kv_heads, rows, splits)
    common = (query, keys, values, tables, slots, lengths, parts, lse)
    numbers = (scale, window or 2**30, float(softcap or 0.0), heads * size, tables.shape[1], kv_heads)
    fp16 = keys.dtype == FP8 and query.dtype != torch.float32 and block <= 128
    if group == 1:
        _attend_one[grid](
            *common, *numbers, D=size, BLOCK_D=block, PAGE=page, SPLITS=splits, num_warps=1 if block <= 128 else 2
        )
    else:
        _attend_group[grid](
            *common, *numbers,
            G=group, BLOCK_G=max(16, triton.next_power_of_2(group)), D=size, BLOCK_D=block,
            PAGE=page, BLOCK_N=32 if fp16 or block > 128 else 64, SPLITS=splits, FP16=fp16,
            num_warps=1 if fp16 else 4, num_stages=4 if fp16 else 3,
        )  # fmt: skip
    if splits > 1:
        _merge_splits[(rows * heads,)](parts, lse, out, D=size, BLOCK_D=block, SPLITS=splits, BLOCK_S=splits)
    return out
