"""What the end of a step is given: the rows that draw a token, and rooms for those whose scores are changed."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from endmark.worker.engine.adjusting import ROOMS
from endmark.worker.engine.cuda.mask_upload import MaskUpload


class SampledRows(NamedTuple):
    """The rows of a step that a token is drawn for, (R,) int32 each."""

    slots: Tensor
    lengths: Tensor  # tokens of the row before its last one: the place of that one
    steps: Tensor
    positions: Tensor


class Steering(NamedTuple):
    """What steers rows."""

    targets: Tensor  # (S + 1, T) int32: by slot the ids that end its phase, and in the last row those of EOS
    inserts: Tensor  # (S, most) int32: by slot the tokens that are put in


@dataclass(frozen=True, slots=True)
class Rooms:
    """What rows whose scores are changed need: their tokens, and rooms for the scores of a few rows at once.

    Attributes:
        tables: (S, W) int32, by slot.
        lists: (S, LISTS.width) int32, by slot.
        history: (pages, page size) int32, the tokens whose keys and values stand there.
        scores: (P, V) fp32.
        counts: (P, V) int32, all 0 between the steps.
        uploads: sets the masks of slots.
    """

    tables: Tensor
    lists: Tensor
    history: Tensor
    scores: Tensor
    counts: Tensor
    uploads: MaskUpload

    @classmethod
    def build(cls, tables: Tensor, lists: Tensor, history: Tensor, vocabulary: int) -> "Rooms":
        """Make the rooms, `ROOMS` at the most."""
        shape = (min(ROOMS, len(tables)), vocabulary)
        scores = torch.zeros(shape, device=tables.device)
        counts = torch.zeros(shape, dtype=torch.int32, device=tables.device)
        width = -(-vocabulary // 32)
        return cls(tables, lists, history, scores, counts, MaskUpload(len(tables), width, tables.device))

    @property
    def masks(self) -> Tensor:
        """Masks by slot, (S, ceil(V / 32)) int32: a bit for each token, 1 where it may follow."""
        return self.uploads.masks
