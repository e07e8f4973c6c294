"""What the device keeps for each slot between steps: its page table and its record."""

from collections.abc import Sequence

import numpy as np
import torch

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cuda.staging import to_device
from endmark.worker.engine.layout import LISTS, SLOT, sampling_values, score_values
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.slot_record import slot_lists, slot_record


class SlotState:
    """Tensors with one row a slot, and one more for the rows of a graph that nobody asked for.

    Attributes:
        tables: (S + 1, W) int32, the pages of each row in its order.
        records: (S + 1, SLOT.width) int32, laid out as `SLOT`.
        lists: (S + 1, LISTS.width) int32, laid out as `LISTS`; of meaning for rows that have some.
    """

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
        self.records = torch.zeros(slots + 1, SLOT.width, dtype=torch.int32, device=device)
        self.lists = torch.zeros(slots + 1, LISTS.width, dtype=torch.int32, device=device)
        self.records[slots] = torch.from_numpy(
            SLOT.pack({**sampling_values(Sampling()), **score_values(ScoreNumbers())})
        )

    def admit(self, rows: Sequence[PrefillRow]) -> None:
        """Set the slots of rows that begin, in one copy, and one more for each row with lists."""
        width = max(len(row.pages) for row in rows)
        tables = np.zeros((len(rows), width), np.int32)
        for index, row in enumerate(rows):
            tables[index, : len(row.pages)] = row.pages
        slots = np.array([[row.slot] for row in rows], np.int32)
        block = np.concatenate([slots, np.stack([slot_record(row) for row in rows]), tables], 1)
        where, records, pages = to_device(block, self._device).split([1, SLOT.width, width], 1)
        slots_there = where[:, 0].long()
        self.records[slots_there] = records
        self.tables[slots_there, :width] = pages
        for row in rows:
            if (lists := slot_lists(row)) is not None:
                self.lists[row.slot] = to_device(lists, self._device)
