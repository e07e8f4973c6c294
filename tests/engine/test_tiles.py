"""Every new token of a pass is in one tile, and every key that a tile reads is gathered."""

import random

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux alone")

from endmark.worker.engine.cuda.tiles import PieceAt, cut, room_for

pytestmark = pytest.mark.engine


def pieces_of(rows):
    placed, place = [], 7  # behind rows that run
    for slot, (begin, end) in enumerate(rows):
        placed.append(PieceAt(slot, begin, end, place))
        place += end - begin
    return placed


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("room", [0, 2048, 1 << 20])
def test_tokens_are_tiled_once_and_their_keys_gathered(seed, room):
    rng = random.Random(seed)
    rows = []
    for _ in range(rng.randrange(1, 12)):
        begin = rng.choice([0, 0, rng.randrange(3000)])
        rows.append((begin, begin + rng.randrange(1, 900)))
    pieces = pieces_of(rows)
    tiles = cut(pieces, room)
    assert tiles.tokens <= room
    keys = {}  # by place: the row and its token
    for slot, start, length, place in tiles.chunks.T.tolist():
        assert length == rows[slot][1]
        assert not keys.keys() & set(range(place, place + 128))
        keys |= {place + at: (slot, start + at) for at in range(128)}
    assert set(keys) == set(range(tiles.tokens))
    done = [
        (place + at, slot, position + at)
        for slot, place, count, position in tiles.paged.T.tolist()
        for at in range(count)
    ]
    for place, count, position, first in tiles.gathered.T.tolist():
        slot = keys[first][0]
        assert all(keys[first + at] == (slot, at) for at in range(position + count))
        done += [(place + at, slot, position + at) for at in range(count)]
    wanted = [(place + at - begin, slot, at) for slot, begin, end, place in pieces for at in range(begin, end)]
    assert sorted(done) == wanted


def test_short_rows_and_few_new_tokens_read_pages():
    rows = [(0, 511), (0, 512), (3000, 3090), (3000, 3200)]
    tiles = cut(pieces_of(rows), 1 << 20)
    assert set(tiles.paged[0].tolist()) == {0, 2}
    assert set(tiles.chunks[0].tolist()) == {1, 3}
    assert tiles.paged.dtype == tiles.gathered.dtype == tiles.chunks.dtype == np.int32


def test_nothing_is_gathered_without_hopper():
    assert room_for(torch.bfloat16, 32, torch.zeros(1, 8, 16, 128), None) == 0
