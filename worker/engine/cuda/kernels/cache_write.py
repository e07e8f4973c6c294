"""Rotary embedding and the writing of new keys and values to their pages, in one launch; fronts of pages copied.

Products are rounded to the model's type before they are added, as transformers' own rotary function does it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS = 8  # that one program handles
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # as which numbers are copied, by their bytes
_LIMITS = {torch.float8_e4m3fn: 448.0}  # beyond which a narrow type has no numbers


@triton.jit
def _rotate(ptr, place, mask, cos1, cos2, sin1, sin2, half):
    """Return both rotated halves of some heads, rounded as the plain function rounds them."""
    x1 = tl.load(ptr + place, mask=mask, other=0.0)
    x2 = tl.load(ptr + place + half, mask=mask, other=0.0)
    kind = x1.dtype
    a1 = (x1.to(tl.float32) * cos1).to(kind).to(tl.float32) - (x2.to(tl.float32) * sin1).to(kind).to(tl.float32)
    a2 = (x2.to(tl.float32) * cos2).to(kind).to(tl.float32) + (x1.to(tl.float32) * sin2).to(kind).to(tl.float32)
    return a1.to(kind), a2.to(kind)


@triton.jit
def _put(pool, cell, x, mask, LIMIT: tl.constexpr):
    """Store in the cache's type, held within its range where that is narrow."""
    if LIMIT > 0:
        x = tl.minimum(tl.maximum(x.to(tl.float32), -LIMIT), LIMIT)
    tl.store(pool + cell, x.to(pool.dtype.element_ty), mask=mask)


@triton.jit
def _write(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, q_out, keys, values, tables, slots, positions,
    q_token, q_head, k_token, k_head, v_token, v_head, table_width, heads, kv_heads, q_blocks,
    HALF: tl.constexpr, BLOCK_H: tl.constexpr, PAGE: tl.constexpr, HEADS: tl.constexpr, ROTARY: tl.constexpr,
    LIMIT: tl.constexpr,
):  # fmt: skip
    """Some heads of one token: the first programs of a token take the query's, the others keys and values."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    offs = tl.arange(0, BLOCK_H)
    inside = offs < HALF
    size = 2 * HALF
    cos1, cos2, sin1, sin2 = 0.0, 0.0, 0.0, 0.0
    if ROTARY:
        cos1 = tl.load(cos_ptr + token * size + offs, mask=inside, other=0.0).to(tl.float32)[None, :]
        cos2 = tl.load(cos_ptr + token * size + HALF + offs, mask=inside, other=0.0).to(tl.float32)[None, :]
        sin1 = tl.load(sin_ptr + token * size + offs, mask=inside, other=0.0).to(tl.float32)[None, :]
        sin2 = tl.load(sin_ptr + token * size + HALF + offs, mask=inside, other=0.0).to(tl.float32)[None, :]
    if block < q_blocks:
        head = block * HEADS + tl.arange(0, HEADS)
        mask = (head < heads)[:, None] & inside[None, :]
        place = token * q_token + head[:, None] * q_head + offs[None, :]
        out = (token * heads + head)[:, None] * size + offs[None, :]
        if ROTARY:
            y1, y2 = _rotate(q_ptr, place, mask, cos1, cos2, sin1, sin2, HALF)
        else:
            y1 = tl.load(q_ptr + place, mask=mask)
            y2 = tl.load(q_ptr + place + HALF, mask=mask)
        tl.store(q_out + out, y1, mask=mask)
        tl.store(q_out + out + HALF, y2, mask=mask)
    else:
        head = (block - q_blocks) * HEADS + tl.arange(0, HEADS)
        mask = (head < kv_heads)[:, None] & inside[None, :]
        position = tl.load(positions + token)
        slot = tl.load(slots + token).to(tl.int64)
        page = tl.load(tables + slot * table_width + position // PAGE).to(tl.int64)
        cell = ((page * kv_heads + head) * PAGE + position % PAGE)[:, None] * size + offs[None, :]
        place = token * k_token + head[:, None] * k_head + offs[None, :]
        if ROTARY:
            y1, y2 = _rotate(k_ptr, place, mask, cos1, cos2, sin1, sin2, HALF)
        else:
            y1 = tl.load(k_ptr + place, mask=mask)
            y2 = tl.load(k_ptr + place + HALF, mask=mask)
        _put(keys, cell, y1, mask, LIMIT)
        _put(keys, cell + HALF, y2, mask, LIMIT)
        place = token * v_token + head[:, None] * v_head + offs[None, :]
        v1 = tl.load(v_ptr + place, mask=mask)
        v2 = tl.load(v_ptr + place + HALF, mask=mask)
        _put(values, cell, v1, mask, LIMIT)
        _put(values, cell + HALF, v2, mask, LIMIT)


def write_cache(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rotary: tuple[Tensor, Tensor] | None,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    slots: Tensor,
    positions: Tensor,
) -> Tensor:
    """Rotate the new queries and keys, and write keys and values to their rows' pages.

    Args:
        query: (T, heads, D) with D contiguous; `key` and `value` (T, KV heads, D) likewise.
        rotary: cosine and sine, each (T, D) and contiguous; None where the rotation has been done.
        keys: (pages, KV heads, page size, D), as `values`.
        tables: (slots, W) int32.
        slots: (T,) int32, of each token's row.
        positions: (T,) int32, of each token in its row.

    Returns:
        The queries, rotated, (T, heads, D) and contiguous.
    """
    tokens, heads, size = query.shape
    kv_heads, page = keys.shape[1], keys.shape[2]
    out = query.new_empty((tokens, heads, size))
    cos, sin = rotary if rotary is not None else (query, query)
    q_blocks = triton.cdiv(heads, _HEADS)
    _write[(tokens, q_blocks + triton.cdiv(kv_heads, _HEADS))](
        query, key, value, cos, sin, out, keys, values, tables, slots, positions,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        tables.shape[1], heads, kv_heads, q_blocks,
        HALF=size // 2, BLOCK_H=triton.next_power_of_2(size // 2), PAGE=page, HEADS=_HEADS,
        ROTARY=rotary is not None, LIMIT=_LIMITS.get(keys.dtype, 0.0), num_warps=2,
    )  # fmt: skip
    return out


@triton.jit
def _copy(pool, copied, count, heads, D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr):
    """The front of one page, of one head; page sizes are powers of two."""
    index, head = tl.program_id(0), tl.program_id(1)
    source = tl.load(copied + index).to(tl.int64)
    page = tl.load(copied + count + index).to(tl.int64)
    tokens = tl.load(copied + 2 * count + index)
    at, offs = tl.arange(0, PAGE), tl.arange(0, BLOCK_D)
    inside = (at < tokens)[:, None] & (offs < D)[None, :]
    cells = at[:, None] * D + offs[None, :]
    front = tl.load(pool + (source * heads + head) * PAGE * D + cells, mask=inside)
    tl.store(pool + (page * heads + head) * PAGE * D + cells, front, mask=inside)


def copy_fronts(pool: Tensor, copied: Tensor) -> None:
    """Copy the fronts of pages to other pages, none of which is copied from.

    Args:
        pool: (pages, heads, page size, D), contiguous; written.
        copied: (3, C) int32: pages to copy from, pages to copy to, tokens of each.
    """
    _, heads, page, size = pool.shape
    count = copied.shape[1]
    _copy[(count, heads)](
        pool.view(_BITS[pool.itemsize]), copied, count, heads,
        D=size, BLOCK_D=triton.next_power_of_2(size), PAGE=page, num_warps=2,
    )  # fmt: skip
