"""Prefill attention over pages and over gathered keys: `python benchmarks/attention.py` on a GPU.

Heads of an 8B shape (32 of 128, with 8 of keys), causal. Rows of `long` and of `label` (see peers.py), and a piece
of 2,048 tokens behind 3,700. Operations are those of the pairs that are seen, the time to gather keys counts; each
rate is the median of nine runs.
"""

import argparse
from collections.abc import Sequence

import torch
from card_time import milliseconds

from endmark.worker.engine.cuda.kernels.gathered_attention import (
    Chunks,
    Gathered,
    GatheredTiles,
    GatherRoom,
    gathered_attention,
)
from endmark.worker.engine.cuda.kernels.prefill_attention import Tiles, prefill_attention
from endmark.worker.engine.cuda.tiles import Cut, PieceAt, cut

HEADS, KV_HEADS, SIZE, PAGE = 32, 8, 128, 16
CASES = {"one row of 5,768": [(0, 5768)], "28 rows of 290": [(0, 290)] * 28, "2,048 behind 3,700": [(3700, 5748)]}


def tiles_of(rows: Sequence[tuple[int, int]], room: int) -> Cut:
    """Return the tiles of pieces of rows, each from one position to another."""
    pieces, place = [], 0
    for slot, (begin, end) in enumerate(rows):
        pieces.append(PieceAt(slot, begin, end, place))
        place += end - begin
    return cut(pieces, room)


def operations(rows: Sequence[tuple[int, int]]) -> float:
    """Return the floating-point operations of the pairs that are seen."""
    return sum((end * (end + 1) - begin * (begin + 1)) / 2 for begin, end in rows) * 4 * HEADS * SIZE


def rates(rows: Sequence[tuple[int, int]], kind: torch.dtype) -> tuple[float, float]:
    """Return operations a second over pages, and over gathered keys, in a cache of that type."""
    width = -(-max(end for _, end in rows) // PAGE)
    tables = torch.randperm(len(rows) * width, device="cuda").view(len(rows), width).int()
    shape = (len(rows) * width, KV_HEADS, PAGE, SIZE)
    keys, values = (torch.randn(shape, device="cuda").to(kind) for _ in range(2))
    query = torch.randn(sum(end - begin for begin, end in rows), HEADS, SIZE, device="cuda").bfloat16()
    paged, flat = tiles_of(rows, 0), tiles_of(rows, 1 << 20)
    tiles = Tiles(*torch.from_numpy(paged.paged.copy()).cuda())
    gathered = Gathered(
        Chunks(*torch.from_numpy(flat.chunks.copy()).cuda()),
        GatheredTiles(*torch.from_numpy(flat.gathered.copy()).cuda()),
        GatherRoom(flat.tokens),
    )
    given, scale = (query, keys, values, tables), SIZE**-0.5
    return (
        1e3 * operations(rows) / milliseconds(lambda: prefill_attention(*given, tiles, scale=scale), 9, dropped=3),
        1e3
        * operations(rows)
        / milliseconds(lambda: gathered_attention(*given, gathered, scale=scale), 9, dropped=3),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.manual_seed(0)
    print("| rows | cache | over pages, TFLOP/s | over gathered keys |\n| --- | --- | ---: | ---: |")
    for name, rows in CASES.items():
        for kind in (torch.bfloat16, torch.float8_e4m3fn):
            paged, gathered = rates(rows, kind)
            cache = "fp8" if kind.itemsize == 1 else "bf16"
            print(f"| {name} | {cache} | {paged / 1e12:.0f} | {gathered / 1e12:.0f} |", flush=True)


if __name__ == "__main__":
    main()
