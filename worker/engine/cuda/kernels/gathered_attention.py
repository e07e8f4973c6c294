"""Attention of many new tokens a row over keys and values that are first gathered from their pages.

Keys that lie together come by TMA, a block at a time and without a look at a page table: more than twice as fast
as reading pages, and to gather them costs a twentieth of that. A row's tokens are followed by zeros up to a whole
block, so that no other row's values are ever multiplied, not even by zero.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from endmark.worker.engine.cuda.kernels.prefill_attention import TILE

BLOCK = 64  # keys at once; rows begin at multiples of it
CHUNK = 128  # tokens of one row that a program gathers, a multiple of BLOCK


class Chunks(NamedTuple):
    """The rows whose keys are gathered, cut into chunks of one row each; (C,) int32 each."""

    slots: Tensor
    starts: Tensor  # of the chunk's first token in its row
    lengths: Tensor  # tokens of the row
    places: Tensor  # where the chunk's first token goes


class GatheredTiles(NamedTuple):
    """Their new tokens cut into tiles, each of one row; (N,) int32 each."""

    begins: Tensor  # of the tile's first token in the packed batch
    counts: Tensor  # tokens in the tile
    positions: Tensor  # of the tile's first token in its row
    places: Tensor  # where the row's first token has gone


@dataclass(slots=True)
class GatherRoom:
    """Room for what is gathered at once, made when it is needed; all layers of a pass share it."""

    tokens: int  # places, a multiple of CHUNK
    _made: tuple[Tensor, list[TensorDescriptor]] | None = None

    def of(
        self, kv_heads: int, size: int, kind: torch.dtype, device: torch.device
    ) -> tuple[Tensor, list[TensorDescriptor]]:
        """Return it for keys and values, (2, KV heads * tokens, D), and how each is read."""
        if self._made is None:
            flat = torch.empty((2, kv_heads * self.tokens, size), dtype=kind, device=device)
            block = [BLOCK, triton.next_power_of_2(size)]
            self._made = flat, [TensorDescriptor.from_tensor(half, block) for half in flat]
        return self._made


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is gathered in each layer of a pass, and who attends to it."""

    chunks: Chunks
    tiles: GatheredTiles
    room: GatherRoom


@triton.jit
def _gather(
    keys, values, tables, slots, starts, lengths, places, keys_out, values_out, tokens, table_width, kv_heads,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One chunk, one head; a chunk of no row writes nothing."""
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + chunk).to(tl.int64)
    offs = tl.arange(0, CHUNK)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    at = tl.load(starts + chunk) + offs
    length = tl.load(lengths + chunk)
    inside = at < length
    page = tl.load(tables + slot * table_width + at // PAGE, mask=inside, other=0).to(tl.int64)
    source = (((page * kv_heads + head) * PAGE + at % PAGE) * D)[:, None] + offs_d
    target = ((head * tokens + tl.load(places + chunk) + offs) * D)[:, None] + offs_d
    in_d = offs_d < D
    k = tl.load(keys + source, mask=inside[:, None] & in_d, other=0.0)
    v = tl.load(values + source, mask=inside[:, None] & in_d, other=0.0)
    mask = (length > 0) & in_d
    tl.store(keys_out + target, k.to(keys_out.dtype.element_ty), mask=mask)
    tl.store(values_out + target, v.to(values_out.dtype.element_ty), mask=mask)


@triton.jit
def _attend_block(
    q, keys, values, place, start, own, best, total, acc, scale, window, softcap,
    BLOCK: tl.constexpr, MASKED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Go on with the block of keys from `start` on, which all queries see unless MASKED."""
    scores = tl.dot(q, keys.load([place + start, 0]).T)
    if CAPPED:
        scores = softcap * (2.0 / (1.0 + tl.math.exp2(-2.0 * scores * scale / softcap)) - 1.0)
        factor = 1.4426950408889634
    else:
        factor = scale
    if MASKED:
        at = start + tl.arange(0, BLOCK)
        seen = (at[None, :] <= own[:, None]) & (at[None, :] > own[:, None] - window)
        scores = tl.where(seen, scores, -float("inf"))
    new_best = tl.maximum(best, tl.max(scores, 1) * factor)
    weights = tl.math.exp2(scores * factor - new_best[:, None])
    shrink = tl.math.exp2(best - new_best)
    total = total * shrink + tl.sum(weights, 1)
    v = values.load([place + start, 0])
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None])
    return new_best, total, acc


@triton.jit
def _attend_tile(
    q_ptr, keys, values, begins, counts, positions, places, out,
    scale, window, softcap, stride_q, tokens, group,
    D: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """One query head, one tile, a row's last tile first: it has the most keys. `scale` is for powers of two."""
    head, tile = tl.program_id(0), tl.num_programs(1) - 1 - tl.program_id(1)
    begin = tl.load(begins + tile).to(tl.int64)
    count = tl.load(counts + tile)
    position = tl.load(positions + tile)
    place = (head // group) * tokens + tl.load(places + tile)
    lines = tl.arange(0, TILE)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    place_q = ((begin + lines) * stride_q)[:, None] + head * D + offs_d
    mask_q = (lines < count)[:, None] & (offs_d < D)
    q = tl.load(q_ptr + place_q, mask=mask_q, other=0.0)
    own = position + lines
    best = tl.full([TILE], -1e38, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, BLOCK_D], tl.float32)
    if WINDOWED:
        masked_from = tl.maximum(position - window + 1, 0) // BLOCK * BLOCK
    else:
        masked_from = (position + 1) // BLOCK * BLOCK
        for start in range(0, masked_from, BLOCK):
            best, total, acc = _attend_block(
                q, keys, values, place, start, own, best, total, acc, scale, window, softcap,
                BLOCK=BLOCK, MASKED=False, CAPPED=CAPPED,
            )  # fmt: skip
    for start in range(masked_from, position + count, BLOCK):
        best, total, acc = _attend_block(
            q, keys, values, place, start, own, best, total, acc, scale, window, softcap,
            BLOCK=BLOCK, MASKED=True, CAPPED=CAPPED,
        )  # fmt: skip
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + place_q, acc.to(out.dtype.element_ty), mask=mask_q)


def gathered_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    gathered: Gathered,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return each new token's attention over the tokens of its row up to itself, as `prefill_attention` does.

    Args:
        query: (T, heads, D), contiguous and of 16 bits, D at most 128; the others as in `decode_attention`.
        gathered: of the tokens that are meant; those in no tile are left out.
        out: filled in and returned.

    Returns:
        (T, heads, D) of the query's type.
    """
    _, heads, size = query.shape
    kv_heads, page = keys.shape[1], keys.shape[2]
    out = torch.empty_like(query) if out is None else out
    block, count = triton.next_power_of_2(size), gathered.room.tokens
    flat, halves = gathered.room.of(kv_heads, size, query.dtype, query.device)
    _gather[(len(gathered.chunks.slots), kv_heads)](
        keys, values, tables, *gathered.chunks, *flat, count, tables.shape[1], kv_heads,
        D=size, BLOCK_D=block, PAGE=page, CHUNK=CHUNK, num_warps=4,
    )  # fmt: skip
    _attend_tile[(heads, len(gathered.tiles.begins))](
        query, *halves, *gathered.tiles, out,
        scale * 1.4426950408889634, window or 2**30, float(softcap or 0.0), heads * size, count, heads // kv_heads,
        D=size, BLOCK_D=block, TILE=TILE, BLOCK=BLOCK, WINDOWED=window is not None, CAPPED=bool(softcap),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return out
