"""What the device keeps for each slot between steps: page table, sampling, score numbers, last token."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from endmark.worker.engine.cuda.staging import to_device
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.sampler import stream_key
from endmark.worker.engine.scores import NUMBERS, as_floats


class SlotState:
    """Tensors with one row a slot, and one more for the rows of a graph that nobody asked for."""

    def __init__(self, slots: int, width: int, device: torch.device, *, spare_page: int) -> None:
        """Make room.

        Args:
            slots: rows that may run at once.
            width: pages of the longest row.
            spare_page: a page that no row owns, for the spare slot.
        """
        self._device = device
        self.tables = torch.zeros(slots + 1, width, dtype=torch.int32, device=device)
        self.tables[slots] = spare_page
        self.last = torch.zeros(slots + 1, dtype=torch.int32, device=device)
        self._numbers = torch.zeros(slots + 1, NUMBERS, device=device)
        self._numbers[slots, -1] = -1.0
        self._floats = torch.zeros(slots + 1, 2, device=device)
        self._draws = torch.zeros(slots + 1, 3, dtype=torch.int32, device=device)
        self._sentence = torch.zeros(slots + 1, dtype=torch.int32, device=device)

    @property
    def state(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `finish_step` reads and writes."""
        return self._numbers, self._floats, self._draws, self.last, self._sentence

    def admit(self, rows: Sequence[PrefillRow]) -> None:
        """Set the slots of rows that begin, in one copy."""
        count = len(rows)
        width = max(len(row.pages) for row in rows)
        block = np.zeros((count, 5 + NUMBERS + 2 + width), np.int32)
        floats = block[:, 5 : 5 + NUMBERS + 2].view(np.float32)
        for index, row in enumerate(rows):
            key = stream_key(row.sampling.seed, row.stream)
            shaped = 0 if row.numbers.is_neutral else 1
            block[index, :5] = row.slot, row.sampling.top_k, _signed(key), shaped, row.sentence_state
            floats[index] = [*as_floats(row.numbers), row.sampling.temperature, row.sampling.top_p]
            block[index, 5 + NUMBERS + 2 : 5 + NUMBERS + 2 + len(row.pages)] = row.pages
        sent = to_device(block, self._device)
        slots = sent[:, 0].long()
        self._draws[slots] = sent[:, 1:4]
        self._sentence[slots] = sent[:, 4]
        numbers = sent[:, 5 : 5 + NUMBERS + 2].contiguous().view(torch.float32)
        self._numbers[slots] = numbers[:, :NUMBERS]
        self._floats[slots] = numbers[:, NUMBERS:]
        self.tables[slots, :width] = sent[:, 5 + NUMBERS + 2 :]


def _signed(value: int) -> int:
    """Return 32 bits as a signed number."""
    return value - 2**32 if value >= 2**31 else value
