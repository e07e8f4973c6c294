"""Masks on their way to the device: read where they were made if that is pinned memory, else gathered first."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endmark.worker.engine.cuda.staging import Upload, to_device

_MOST_PLACES = 1 << 14  # of masks, which are few objects used again and again


class MaskUpload:
    """Sends the masks of some slots in a copy or two behind what the device is doing.

    A mask's bits come from the caches of whichever cores made them. A core takes 2 ms to read those of 256 rows of
    128,256 tokens (4 MB), a device a tenth of that; so no core touches those that stand in `memory`.
    """

    def __init__(self, slots: int, width: int, device: torch.device) -> None:
        """Make room.

        Args:
            slots: of the runner.
            width: 32-bit words of a mask.
        """
        self.masks = torch.zeros(
            slots, width, dtype=torch.int32, device=device
        )  # by slot: 1 where a token may follow
        self._gathered = Upload(slots, width, device)
        self._pinned: dict[int, tuple[NDArray[np.int32], Tensor]] = {}  # kept for good, by the array's id
        self._places: dict[int, tuple[NDArray[np.int32], int, int]] = {}  # of views by their ids, as of `_place`

    def memory(self, count: int) -> NDArray[np.int32]:
        """Return room for so many 32-bit words, of which masks may be views, each behind those before it."""
        room = torch.empty(count, dtype=torch.int32, pin_memory=self.masks.is_cuda)
        array: NDArray[np.int32] = room.numpy()
        self._pinned[id(array)] = array, room
        return array

    def send(self, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Set the masks of slots; (slot, words) each, words beyond the last are 0."""
        placed: dict[int, list[tuple[int, int]]] = defaultdict(list)
        others: list[tuple[int, NDArray[np.int32]]] = []
        for slot, words in masks:
            found = self._places.get(id(words)) or self._place(words)
            if found is not None:
                placed[found[1]].append((slot, found[2]))
            else:
                others.append((slot, words))
        width = max((len(words) for _, words in masks), default=0)
        for key, rows in placed.items():
            self._send_placed(self._pinned[key][1], rows, width)
        if others:
            self._send_gathered(others)

    def _place(self, words: NDArray[np.int32]) -> tuple[NDArray[np.int32], int, int] | None:
        """Return a mask with the id of the memory in which it stands, and which it is there; None if in none.

        An object is asked once where it stands: that takes longer than all else that is done for a mask here.
        """
        known = self._pinned.get(id(words.base))
        if known is None or len(words) > self.masks.shape[1]:
            return None
        begin = words.__array_interface__["data"][0] - known[0].__array_interface__["data"][0]
        place = int(begin) // words.nbytes
        if place >= len(self.masks):
            return None
        if len(self._places) >= _MOST_PLACES:
            self._places.clear()
        self._places[id(words)] = found = words, id(words.base), place
        return found

    def _send_placed(self, room: Tensor, rows: Sequence[tuple[int, int]], width: int) -> None:
        """Send masks of so many words from pinned memory: (slot, place) each."""
        size = (1 + max(place for _, place in rows)) * width
        there = self._gathered.device_block.view(-1)[:size].copy_(room[:size], non_blocking=True).view(-1, width)
        slots, places = to_device(np.array(rows, np.int32).T.copy(), self.masks.device).long()
        self.masks[:, :width].index_copy_(0, slots, there.index_select(0, places))

    def _send_gathered(self, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Send masks from wherever they stand."""
        count, width = len(masks), self.masks.shape[1]
        size = min(width, *(len(words) for _, words in masks))  # of one model all are alike
        block = self._gathered.next()[:count]
        np.concatenate([words[None, :size] for _, words in masks], out=block[:, :size])
        block[:, size:] = 0
        slots = to_device(np.array([slot for slot, _ in masks], np.int32), self.masks.device)
        self.masks.index_copy_(0, slots.long(), self._gathered.send(count))
