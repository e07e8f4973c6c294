"""What the end of a step is given: the rows that draw a token, and rooms for those whose scores are changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endmark.worker.engine.adjusting import ROOMS
from endmark.worker.engine.cuda.staging import Upload, to_device


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
        masks: (S, ceil(V / 32)) int32, by slot: a bit for each token, 1 where it may follow.
        sent_masks: those on their way there.
    """

    tables: Tensor
    lists: Tensor
    history: Tensor
    scores: Tensor
    counts: Tensor
    masks: Tensor
    sent_masks: Upload

    @classmethod
    def build(cls, tables: Tensor, lists: Tensor, history: Tensor, vocabulary: int) -> "Rooms":
        """Make the rooms, `ROOMS` at the most."""
        shape = (min(ROOMS, len(tables)), vocabulary)
        scores = torch.zeros(shape, device=tables.device)
        counts = torch.zeros(shape, dtype=torch.int32, device=tables.device)
        width = -(-vocabulary // 32)
        masks = torch.zeros(len(tables), width, dtype=torch.int32, device=tables.device)
        sent = Upload(len(tables), width, tables.device)
        return cls(tables, lists, history, scores, counts, masks, sent)

    def mask(self, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Set the masks of some slots, in one copy behind what the device is doing."""
        if masks:
            count, width = len(masks), self.masks.shape[1]
            size = min(width, *(len(words) for _, words in masks))  # of one model all are alike
            block = self.sent_masks.next()[:count]
            np.concatenate([words[None, :size] for _, words in masks], out=block[:, :size])
            block[:, size:] = 0
            slots = to_device(np.array([slot for slot, _ in masks], np.int32), self.masks.device)
            self.masks.index_copy_(0, slots.long(), self.sent_masks.send(count))
