"""What the device keeps for each slot between steps: its page table and its record."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cuda.staging import to_device
from endmark.worker.engine.layout import LISTS, SLOT, sampling_values, score_values
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.slot_record import slot_lists, slot_record
from endmark.worker.engine.steering import MOST_INSERTED, MOST_PHASE_ENDS


class SlotState:
    """Tensors with one row a slot, and one more for the rows of a graph that nobody asked for.

    Attributes:
        tables: (S + 1, W) int32, the pages of each row in its order.
        records: (S + 1, SLOT.width) int32, laid out as `SLOT`.
        lists: (S + 1, LISTS.width) int32, laid out as `LISTS`; of meaning for rows that have some.
        targets: (S + 2, T) int32, the ids that end each row's phase, and in the last row those of EOS; the first
            stands in places that are left.
        inserts: (S + 1, MOST_INSERTED) int32, the tokens to be put in.
        spare: the slot that no row is given, and `spare_page` its page.
    """

    def __init__(
        self, slots: int, width: int, eos_ids: Sequence[int], device: torch.device, *, spare_page: int
    ) -> None:
        """Make room.

        Args:
            slots: rows that may run at once.
            width: pages of the longest row.
            eos_ids: all end tokens.
            spare_page: a page that no row owns, for the spare slot.
        """
        self._device = device
        self.spare, self.spare_page = slots, spare_page
        self.tables = torch.zeros(slots + 1, width, dtype=torch.int32, device=device)
        self.tables[slots] = spare_page
        self.records = torch.zeros(slots + 1, SLOT.width, dtype=torch.int32, device=device)
        self.lists = torch.zeros(slots + 1, LISTS.width, dtype=torch.int32, device=device)
        self.records[slots] = torch.from_numpy(
            SLOT.pack({**sampling_values(Sampling()), **score_values(ScoreNumbers())})
        )
        most = max(MOST_PHASE_ENDS, len(eos_ids))
        self.targets = torch.zeros(slots + 2, most, dtype=torch.int32, device=device)
        self.targets[-1] = torch.from_numpy(_filled(eos_ids, most))
        self.inserts = torch.zeros(slots + 1, MOST_INSERTED, dtype=torch.int32, device=device)

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
        steered = [row for row in rows if row.phase is not None or row.insertion is not None]
        if steered:
            self._steer(steered)

    def note_last(self, last: Tensor) -> None:
        """Set the last tokens of rows whose prompts are computed elsewhere: (R, 2) int32, slot and token."""
        self.records[last[:, 0].long(), SLOT["last"]] = last[:, 1]

    def _steer(self, rows: Sequence[PrefillRow]) -> None:
        """Set what steers some of the rows that begin, in one copy."""
        most = self.targets.shape[1]
        block = np.zeros((len(rows), 1 + most + MOST_INSERTED), np.int32)
        for index, row in enumerate(rows):
            block[index, 0] = row.slot
            if row.phase is not None:
                block[index, 1 : 1 + most] = _filled(row.phase.end_ids, most)
            if row.insertion is not None:
                block[index, 1 + most :] = _filled(row.insertion.token_ids, MOST_INSERTED)
        where, targets, inserts = to_device(block, self._device).split([1, most, MOST_INSERTED], 1)
        slots = where[:, 0].long()
        self.targets[slots] = targets
        self.inserts[slots] = inserts


def _filled(ids: Sequence[int], width: int) -> NDArray[np.int32]:
    """Return ids as (width,) int32, the first of them in the places that are left."""
    return np.array([*ids, *[ids[0]] * (width - len(ids))], np.int32)
