"""The inputs of passes of one size, at places that stay the same, so that a captured step reads them there.

What attention has to do (which rows run, tiles of prompts, chunks to be gathered) stands in tables of fixed size,
in which surplus programs find nothing to do; tokens that are left over are a row's in the spare slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cuda.kernels.gathered_attention import (
    CHUNK,
    Chunks,
    Gathered,
    GatheredTiles,
    GatherRoom,
)
from endmark.worker.engine.cuda.kernels.prefill_attention import Tiles
from endmark.worker.engine.cuda.prefill import PassInputs, Piece
from endmark.worker.engine.cuda.replay import Replay
from endmark.worker.engine.plan import PrefillRow

_LEAST, _WHOLE = 16, 32  # tokens of the smallest pass; larger ones are whole multiples of so many
_TILES, _MANY_TILES = 32, 8  # tokens a tile: a surplus one costs a fifth of one with work, so there are few
_COPIES = 256  # fronts of pages
_IDLE = 16  # idle tokens that attend to each other; they stand in one page


class Idle(NamedTuple):
    """Tokens that nobody asked for, by which a pass becomes one of few sizes."""

    slot: int  # the spare one
    sizes: Sequence[int]  # ascending; a larger pass stays as it is

    def beside(self, tokens: int) -> list[Piece]:
        """Return those that go with a pass of so many tokens."""
        count = next((size - tokens for size in self.sizes if size >= tokens), 0)
        row = PrefillRow(self.slot, [0] * (_IDLE + 1), 0, (), 0, 0, Sampling(), ScoreNumbers(), 0)
        return [Piece(row, 0, min(_IDLE, count - begin)) for begin in range(0, count, _IDLE)]


class Size(NamedTuple):
    """What sets captured passes apart."""

    tokens: int
    running: int  # rows at the front, idle ones included
    gathers: bool  # whether some prompts' keys are gathered
    copies: bool = False  # whether fronts of pages are copied
    short: bool = False  # whether prompts are so short that there are many tiles

    @classmethod
    def of(cls, inputs: PassInputs, running: int) -> "Size":
        """Return a pass's size, with so many rows at the front."""
        tokens = len(inputs.tokens)
        short = inputs.tiles is not None and len(inputs.tiles.slots) > fours(tokens // _TILES)
        return cls(tokens, min(running, tokens), inputs.gathered is not None, inputs.copied is not None, short)

    def widths(self, room: int) -> list[int]:
        """Return how many numbers there are of each kind of the kernels' inputs, in the order of `PromptStep`.

        Args:
            room: tokens that can be gathered.
        """
        tiles, chunks = (fours(self.tokens // 32), room // CHUNK) if self.gathers else (0, 0)
        paged = fours(self.tokens // (_MANY_TILES if self.short else _TILES))
        copies = _COPIES if self.copies else 0
        return [self.tokens] * 2 + [self.running] * 2 + [paged] * 4 + [tiles] * 4 + [chunks] * 4 + [copies] * 3


@dataclass(frozen=True, slots=True)
class Front:
    """The inputs of a pass's first part, T tokens, at places that stay the same."""

    tokens: Tensor  # (T,) int64
    positions64: Tensor  # (T,) int64, for the model
    positions: Tensor  # (T,) int32, for the kernels
    slots: Tensor  # (T,) int32
    running: tuple[Tensor, Tensor]  # slots and positions (R,) int32 of the rows at the front, then of idle ones
    tiles: Tiles
    gathered: Gathered | None
    copied: Tensor | None  # (3, C) int32, as of `copy_fronts`


class PromptStep:
    """The first part of passes of one size: launched kernel by kernel, captured once a card waits for that."""

    def __init__(self, size: Size, spare: int, room: GatherRoom, device: torch.device) -> None:
        """Make room for its inputs, which are idle rows.

        Args:
            size: of the passes.
            spare: the slot of idle rows.
            room: for keys that are gathered.
            device: of the passes.
        """
        self._widths = size.widths(room.tokens)
        self._whole = torch.zeros(sum(self._widths), dtype=torch.int32, device=device)
        self._for_model = torch.zeros(2 * size.tokens, dtype=torch.int64, device=device)
        self._nothing = torch.zeros(max(self._widths), dtype=torch.int32, device=device)
        self._idle = torch.full_like(self._nothing, spare)
        positions, slots, *rest = self._whole.split(self._widths)
        for part in (slots, rest[0]):
            part.fill_(spare)
        gathered = Gathered(Chunks(*rest[10:14]), GatheredTiles(*rest[6:10]), room) if size.gathers else None
        tokens, positions64 = self._for_model.split(size.tokens)
        copied = self._whole[-3 * _COPIES :].view(3, _COPIES) if size.copies else None
        self.front = Front(
            tokens, positions64, positions, slots, (rest[0], rest[1]), Tiles(*rest[2:6]), gathered, copied
        )
        self.waited = 0  # passes for whose launch the card had to wait
        self.replay: Replay | None = None

    def takes(self, inputs: PassInputs) -> bool:
        """Whether a pass of this size has no more tiles and chunks than there is room for."""
        return all(len(part) <= width for part, width in zip(_parts(inputs), self._widths, strict=True))

    def fill(self, inputs: PassInputs) -> None:
        """Set the inputs; behind those that mean something are idle rows, or nothing to do."""
        parts: list[Tensor] = []
        for index, (part, width) in enumerate(zip(_parts(inputs), self._widths, strict=True)):
            behind = self._idle if index == _RUNNING_SLOTS else self._nothing
            parts += [part, behind[: width - len(part)]]
        torch.cat(parts, out=self._whole)
        torch.cat([inputs.tokens, inputs.positions64], out=self._for_model)


_RUNNING_SLOTS = 2  # where the slots of running rows are among these


def _parts(inputs: PassInputs) -> list[Tensor]:
    """Return what the kernels are given of a pass, int32, in the order of `Size.widths`."""
    nothing = [inputs.slots[:0]] * 4
    gathered, front = inputs.gathered, slice(inputs.decoding)
    return [
        inputs.positions,
        inputs.slots,
        inputs.slots[front],
        inputs.positions[front],
        *(inputs.tiles or nothing),
        *(gathered.tiles if gathered is not None else nothing),
        *(gathered.chunks if gathered is not None else nothing),
        *(inputs.copied if inputs.copied is not None else nothing[:3]),
    ]


def pass_sizes(most: int) -> list[int]:
    """Return the sizes to which passes are padded, the largest of `most` tokens, a multiple of 16."""
    return [*(size for size in (_LEAST, *range(_WHOLE, most, _WHOLE)) if size < most), most]


def fours(count: int) -> int:
    """Return a count as a multiple of four: so tensors side by side begin at multiples of 16 bytes."""
    return -(-count // 4) * 4
