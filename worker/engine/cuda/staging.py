"""Small blocks of integers on their way to the device and back, without ever waiting for it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_RING = 4  # steps that may be under way before a block is used again; the engine has two


class Upload:
    """A ring of pinned blocks of one shape, each copied to one block on the device."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.device_block = torch.zeros(rows, columns, dtype=torch.int32, device=device)
        self._pinned: list[Tensor] = []  # made as they are needed
        self._turn = -1

    def next(self) -> NDArray[np.int32]:
        """Return the block to fill now."""
        self._turn = (self._turn + 1) % _RING
        if self._turn == len(self._pinned):
            self._pinned.append(
                _pinned(torch.zeros_like(self.device_block, device="cpu"), self.device_block.device)
            )
        block: NDArray[np.int32] = self._pinned[self._turn].numpy()
        return block

    def send(self, rows: int | None = None) -> Tensor:
        """Copy the block just filled, or its first rows, behind what the device is doing; return them there."""
        there = self.device_block[:rows]
        return there.copy_(self._pinned[self._turn][:rows], non_blocking=True)


class Download:
    """Results on their way back: a pinned copy and the moment from which it is whole."""

    def __init__(self, block: Tensor) -> None:
        self._pinned = torch.empty(block.shape, dtype=block.dtype, pin_memory=block.is_cuda)
        self._pinned.copy_(block, non_blocking=True)
        self._event = torch.cuda.Event() if block.is_cuda else None
        if self._event is not None:
            self._event.record()

    def wait(self) -> NDArray[np.int32]:
        """Return the results once they are there."""
        if self._event is not None:
            self._event.synchronize()
        array: NDArray[np.int32] = self._pinned.numpy()
        return array


def to_device(values: NDArray[np.int32], device: torch.device) -> Tensor:
    """Copy integers to the device, behind what it is doing."""
    return _pinned(torch.from_numpy(values), device).to(device, non_blocking=True)


def _pinned(block: Tensor, device: torch.device) -> Tensor:
    """Return a block whose copy to the device need not be waited for; on the CPU there is nothing to wait for."""
    return block.pin_memory() if device.type == "cuda" else block
