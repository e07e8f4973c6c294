"""A prefill that finds no memory goes on in halves, every token once and in order; the limit is remembered."""

import random

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux alone")

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cuda.prefill import Passes, PassInputs, Piece
from endmark.worker.engine.plan import PrefillRow

pytestmark = pytest.mark.engine


def pieces_of(lengths, cached=0):
    return [
        Piece(
            PrefillRow(
                slot, range(length), cached, (), 0, 0, sampling=Sampling(), numbers=ScoreNumbers(), stream=slot
            ),
            cached,
            length,
        )
        for slot, length in enumerate(lengths)
    ]


class Card:
    """Has room for so many tokens at once, and notes what it was asked."""

    def __init__(self, passes, room):
        self.passes, self.room = passes, room
        self.limits, self.done, self.ended = [], [], 0

    def compute(self, group, done):
        assert done == self.ended
        self.limits.append(self.passes.limit)
        size = sum(piece.end - piece.begin for piece in group)
        assert 0 < size <= self.passes.limit
        if size > self.room:
            raise torch.OutOfMemoryError("no room")
        self.done += [(piece.row.slot, token) for piece in group for token in range(piece.begin, piece.end)]
        ended = sum(piece.is_last for piece in group)
        self.ended += ended
        return ended


def all_tokens(pieces):
    return [(piece.row.slot, token) for piece in pieces for token in range(piece.begin, piece.end)]


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_computed_once_and_in_order(seed):
    rng = random.Random(seed)
    passes = Passes(limit=rng.choice([64, 256, 1024]), least=16)
    card = Card(passes, room=rng.choice([16, 40, 100, 5000]))
    pieces = pieces_of([rng.randrange(9, 300) for _ in range(rng.randrange(1, 30))], cached=8)
    passes.run(pieces, card.compute)
    assert card.done == all_tokens(pieces)
    assert card.ended == len(pieces)


def test_the_limit_falls_and_never_rises():
    """It rose: a prefill's second pass had been cut before the first failed, and half of it was more again."""
    passes = Passes(limit=8192, least=16)
    card = Card(passes, room=600)
    passes.run(pieces_of([512] * 40), card.compute)
    assert card.limits[:5] == [8192, 4096, 2048, 1024, 512]
    assert set(card.limits[5:]) == {512}
    assert passes.limit == 512
    later = Card(passes, room=5000)
    passes.run(pieces_of([512] * 40), later.compute)
    assert set(later.limits) == {512}, "what did not fit once is not tried again"


def test_where_not_even_a_page_fits_the_error_is_told():
    passes = Passes(limit=100, least=16)
    with pytest.raises(torch.OutOfMemoryError):
        passes.run(pieces_of([40]), Card(passes, room=15).compute)
    assert passes.limit == 16


def test_single_tokens_stand_before_the_other_pieces_and_are_sampled_in_the_order_of_the_rows():
    """They attend as rows that run do: a tile of 64 for each took a step of scored labels 2 % of its time."""
    rows = [
        PrefillRow(
            slot, range(100 * slot, 100 * slot + end), begin, (), 0, 0, Sampling(), ScoreNumbers(), slot, **asks
        )
        for slot, (begin, end, asks) in enumerate(
            [(0, 5, {"asked_before": [[7]]}), (3, 4, {}), (16, 19, {}), (8, 9, {"asked": [3]})]
        )
    ]
    pieces = [Piece(row, row.cached, len(row.token_ids)) for row in rows]
    inputs = PassInputs.of(pieces, None, torch.device("cpu"))
    assert inputs.decoding == 2
    assert inputs.tokens.tolist() == [103, 308, *range(5), 216, 217, 218]
    assert inputs.slots.tolist() == [1, 3, *[0] * 5, *[2] * 3]
    assert inputs.tokens[inputs.keep].tolist() == [row.token_ids[-1] for row in rows]
    assert inputs.tokens[inputs.others].tolist() == [3]
    assert inputs.on_host == [0, 1, 2, 3]
    tiles = inputs.tiles
    assert [part.tolist() for part in tiles] == [[0, 2], [2, 7], [5, 3], [0, 16]]
