"""A pass's prompts cut into tiles: those of long rows read keys that are gathered, the others read pages."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from triton.errors import TritonError

from endmark.worker.engine.cuda.kernels.gathered_attention import (
    CHUNK,
    Chunks,
    Gathered,
    GatheredTiles,
    GatherRoom,
    gathered_attention,
)
from endmark.worker.engine.cuda.kernels.prefill_attention import TILE, Tiles, prefill_attention

log = logging.getLogger(__name__)

_LEAST = 512  # tokens of a row from which on gathering pays
_MOST = 32  # tokens of a row for each new one: with more, most that is gathered is seldom read
_ROOM = 256 << 20  # bytes that are gathered at once
_CLOSE = 1e-2  # of what attention gives: both ways round to 16 bits


class PieceAt(NamedTuple):
    """Some tokens of one row, and where they stand in the pass."""

    slot: int
    begin: int  # in the row, as `end`
    end: int
    place: int


class Cut(NamedTuple):
    """The tiles of a pass, by columns, int32."""

    paged: NDArray[np.int32]  # (4, N), as `Tiles`
    gathered: NDArray[np.int32]  # (4, M), as `GatheredTiles`
    chunks: NDArray[np.int32]  # (4, C), as `Chunks`
    tokens: int  # as `Gathered`


def room_for(query: torch.dtype, heads: int, keys: Tensor, window: int | None) -> int:
    """Return how many tokens may be gathered at once: 0 where the kernel that reads them is not for the card.

    Args:
        query: the type of what attends.
        heads: that attend.
        keys: of one layer, (pages, KV heads, page size, D).
        window: tokens that some layers see; None where all see all.
    """
    _, kv_heads, _, size = keys.shape
    if keys.device.type != "cuda" or torch.cuda.get_device_capability(keys.device)[0] != 9:  # Hopper's
        return 0
    if query.itemsize != 2 or size > 128:  # more does not fit into shared memory
        return 0
    try:
        far = _difference(query, heads, keys, None if window is None else min(window, _LEAST // 2))
    except (RuntimeError, TritonError) as error:
        log.warning("prompts read their keys from pages: the kernel for gathered ones fails: %s", error)
        return 0
    if not far <= _CLOSE:
        log.warning("prompts read their keys from pages: the kernel for gathered ones is off by %.2g", far)
        return 0
    return _ROOM // (2 * kv_heads * size * query.itemsize)


@torch.inference_mode()
def _difference(kind: torch.dtype, heads: int, keys: Tensor, window: int | None) -> float:
    """Return how far a row of random numbers is from itself, read gathered and read from pages.

    Args:
        kind: of the queries.
        heads: that attend.
        keys: as of `room_for`.
        window: tried beside none.
    """
    _, kv_heads, page, size = keys.shape
    tokens, device = _LEAST + TILE // 2, keys.device
    count = -(-tokens // page)
    key, value = (torch.randn(count, kv_heads, page, size, device=device).to(keys.dtype) for _ in range(2))
    query = torch.randn(tokens, heads, size, device=device).to(kind)
    tables = torch.arange(count, dtype=torch.int32, device=device).unsqueeze(0)
    piece = [PieceAt(0, 0, tokens, 0)]

    def sent(block: NDArray[np.int32]) -> list[Tensor]:
        return [torch.tensor(row, device=device) for row in block]

    flat, scale = cut(piece, 2 * tokens), size**-0.5
    gathered = Gathered(Chunks(*sent(flat.chunks)), GatheredTiles(*sent(flat.gathered)), GatherRoom(flat.tokens))
    paged = Tiles(*sent(cut(piece, 0).paged))
    given, far = (query, key, value, tables), []
    for seen in {None, window}:
        want = prefill_attention(*given, paged, scale=scale, window=seen).float()
        got = gathered_attention(*given, gathered, scale=scale, window=seen).float()
        far.append((got - want).norm() / want.norm())
    return float(torch.stack(far).max())  # NaN if one is


def cut(pieces: Sequence[PieceAt], room: int) -> Cut:
    """Cut pieces into tiles.

    Args:
        pieces: in the order of the pass.
        room: tokens that may be gathered.
    """
    paged, gathered, chunks = ([np.empty((0, 4), np.int32)] for _ in range(3))
    used = 0
    for slot, begin, end, place in pieces:
        starts = np.arange(begin, end, TILE, dtype=np.int32)
        places, counts = place + starts - begin, np.minimum(TILE, end - starts)
        size = -(-end // CHUNK) * CHUNK
        if _LEAST <= end <= _MOST * (end - begin) and used + size <= room:
            gathered.append(np.stack([places, counts, starts, np.full_like(starts, used)], 1))
            begins = np.arange(0, size, CHUNK, dtype=np.int32)
            same = np.ones_like(begins)
            chunks.append(np.stack([slot * same, begins, end * same, used + begins], 1))
            used += size
        else:
            paged.append(np.stack([np.full_like(starts, slot), places, counts, starts], 1))
    return Cut(np.concatenate(paged).T, np.concatenate(gathered).T, np.concatenate(chunks).T, used)
