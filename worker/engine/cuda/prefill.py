"""Cutting a step's prompts into forward passes for which there is memory, and a pass into the kernels' tiles."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endmark.worker.engine.cuda.decode import DecodeInputs
from endmark.worker.engine.cuda.kernels.gathered_attention import Chunks, Gathered, GatheredTiles, GatherRoom
from endmark.worker.engine.cuda.kernels.prefill_attention import Tiles
from endmark.worker.engine.cuda.rooms import SampledRows
from endmark.worker.engine.cuda.staging import to_device
from endmark.worker.engine.cuda.tiles import PieceAt, cut
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.scores import Questions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of one row."""

    row: PrefillRow
    begin: int
    end: int

    @property
    def is_last(self) -> bool:
        """Whether the row's next token is sampled after it."""
        return self.end == len(self.row.token_ids)


@dataclass(slots=True)
class Passes:
    """Runs prefills in forward passes of at most `limit` tokens: halved where the memory does not suffice."""

    limit: int
    least: int  # tokens that must fit

    def run(self, pieces: Iterable[Piece], compute: Callable[[list[Piece], int], int]) -> None:
        """Compute all pieces, in order.

        Args:
            compute: runs one pass; takes its pieces and the rows ended before, and returns how many it ended.

        Raises:
            torch.OutOfMemoryError: there is no room for `least` tokens.
        """
        rest, done = list(pieces), 0
        while rest:
            group, after = _split(rest, self.limit)
            try:
                done += compute(group, done)
            except torch.OutOfMemoryError:
                tokens = sum(piece.end - piece.begin for piece in group)
                if tokens <= self.least:
                    raise
                self.limit = max(self.least, tokens // 2)
                log.warning("no room to prefill %d tokens at once: %d from now on", tokens, self.limit)
                torch.cuda.empty_cache()
            else:
                rest = after


def _split(pieces: Sequence[Piece], limit: int) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of the first `limit` tokens, the last of them cut where they end, and the others."""
    for index, piece in enumerate(pieces):
        size = piece.end - piece.begin
        if size > limit:
            middle = min(piece.begin + limit, piece.end - len(piece.row.asked_before) - 1)
            if middle <= piece.begin:
                return list(pieces[:index]), list(pieces[index:])
            first = Piece(piece.row, piece.begin, middle)
            return [*pieces[:index], first], [Piece(piece.row, middle, piece.end), *pieces[index + 1 :]]
        limit -= size
    return list(pieces), []


@dataclass(frozen=True, slots=True)
class PassInputs:
    """One forward pass of T tokens on the device, after which a token is sampled for R rows."""

    tokens: Tensor  # (T,) int64
    positions64: Tensor  # (T,) int64, for the model
    positions: Tensor  # (T,) int32, for the kernels
    slots: Tensor  # (T,) int32
    decoding: int  # tokens at the front that are one a row: those of rows that run, and single ones
    tiles: Tiles | None  # of the others, but for those whose keys are gathered
    gathered: Gathered | None
    copied: Tensor | None  # as of `copy_fronts`
    keep: Tensor  # (R,) int64: the rows' last tokens in the batch; one of no meaning where R is 0
    rows: SampledRows
    sampled: int  # R
    on_host: Sequence[int]  # their slots
    others: Tensor  # (O,) int64: other tokens whose logits are wanted
    questions: Questions  # what rows ask about, by row of all logits

    @classmethod
    def of(
        cls, pieces: Sequence[Piece], running: DecodeInputs | None, device: torch.device, room: int = 0
    ) -> "PassInputs":
        """Lay rows that run and pieces of prompts out side by side, the pieces in one copy to the device.

        Args:
            pieces: in order.
            running: rows that are given a token each.
            device: the runner's.
            room: tokens whose keys may be gathered; see `tiles.room_for`.
        """
        lengths = [piece.end - piece.begin for piece in pieces]
        total, decoding = sum(lengths), len(running.tokens) if running is not None else 0
        packed = np.empty((3, total), np.int32)
        placed: list[PieceAt] = []
        ends: list[tuple[int, int, int, int, int]] = []
        others: list[int] = []
        single = lengths.count(1)
        for piece, length, at in zip(pieces, lengths, _places(lengths), strict=True):
            row, end = piece.row, at + length
            packed[0, at:end] = row.token_ids[piece.begin : piece.end]
            packed[1, at:end] = np.arange(piece.begin, piece.end)
            packed[2, at:end] = row.slot
            if length > 1:
                placed.append(PieceAt(row.slot, piece.begin, piece.end, decoding + at))
            if piece.is_last:
                last = decoding + end - 1
                ends.append((last, row.slot, piece.end - 1, row.step, row.position))
                others += range(last - len(row.asked_before), last)
        tiles = cut(placed, room)
        copied = [piece.row.copied for piece in pieces if piece.row.copied and piece.begin == piece.row.cached]
        rest = [tiles.paged, tiles.gathered, tiles.chunks, np.array([others], np.int32)]
        blocks = [packed, np.array(ends or [(0,) * 5], np.int32).T, *rest]
        (tokens, positions, slots), (keep, *rows), *parts = _send(blocks, device)
        paged, gathered, chunks = Tiles(*parts[0]), GatheredTiles(*parts[1]), Chunks(*parts[2])
        (asked,) = parts[3]
        ended = [piece.row for piece in pieces if piece.is_last]
        alone = cls(
            tokens=tokens.long(),
            positions64=positions.long(),
            positions=positions,
            slots=slots,
            decoding=decoding + single,
            tiles=paged if len(paged.slots) else None,
            gathered=Gathered(chunks, gathered, GatherRoom(tiles.tokens)) if tiles.tokens else None,
            copied=to_device(np.array(copied, np.int32).T.copy(), device) if copied else None,
            keep=keep.long(),
            rows=SampledRows(*rows),
            sampled=decoding + len(ended),
            on_host=[*(running.on_host if running is not None else ()), *(row.slot for row in ended)],
            others=asked.long(),
            questions=_questions(ended, decoding),
        )
        return alone._behind(running, len(ended)) if running is not None else alone

    def _behind(self, running: DecodeInputs, ended: int) -> "PassInputs":
        """Return the pass with the rows that run before the pieces, of which so many rows end."""
        front = torch.arange(len(running.tokens), device=self.keep.device)
        return replace(
            self,
            tokens=torch.cat([running.tokens, self.tokens]),
            positions64=torch.cat([running.positions64, self.positions64]),
            positions=torch.cat([running.rows.lengths, self.positions]),
            slots=torch.cat([running.rows.slots, self.slots]),
            keep=torch.cat([front, self.keep[:ended]]),
            rows=SampledRows(
                *(torch.cat([one, other[:ended]]) for one, other in zip(running.rows, self.rows, strict=True))
            ),
        )


def _places(lengths: Sequence[int]) -> list[int]:
    """Return where the tokens of each piece begin among those of all, single ones before the others.

    A single token, such as a label's, attends as those of rows that run do, right behind which it then stands.
    """
    one, many = 0, lengths.count(1)
    places: list[int] = []
    for length in lengths:
        places.append(one if length == 1 else many)
        if length == 1:
            one += 1
        else:
            many += length
    return places


def _questions(ended: Sequence[PrefillRow], decoding: int) -> Questions:
    """Return what the rows that end ask about; `decoding` rows are sampled before them."""
    asked = {index: row.asked for index, row in enumerate(ended, decoding) if row.asked}
    others = [(index, ids) for index, row in enumerate(ended, decoding) for ids in row.asked_before]
    sampled = decoding + len(ended)
    asked |= {at: ids for at, (_, ids) in enumerate(others, sampled)}
    return Questions(asked, [row for row, _ in others])


def _send(blocks: Sequence[NDArray[np.int32]], device: torch.device) -> list[list[Tensor]]:
    """Return the rows of each block on the device, copied as one.

    Every row begins at a multiple of 16 bytes: Triton would compile a kernel once more for each that does not.
    """
    rows = [np.pad(row, (0, -len(row) % 4)) for block in blocks for row in block]
    sent = iter(to_device(np.concatenate(rows), device).split([len(row) for row in rows]))
    return [[next(sent)[: block.shape[1]] for _ in block] for block in blocks]
