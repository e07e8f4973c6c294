"""What a step has drawn, on its way from the device into the block that the engine reads."""

import logging

import numpy as np
import torch
from torch import Tensor

from endmark.worker.engine.cuda.staging import to_device
from endmark.worker.engine.layout import RESULT
from endmark.worker.engine.scores import asked_scores, best_scores
from endmark.worker.vllm.block import ENTRY, RING, Block
from endmark.worker.vllm.drawing import Batch

log = logging.getLogger(__name__)


class Returns:
    """The results of all slots, copied into the block as a whole: what stood there is written again as it was.

    Args:
        block: that is written.
        device: of the results.

    Attributes:
        entries: (slots + 1, RING, ENTRY.width) int32 on the device: the results of all slots.
    """

    def __init__(self, block: Block, device: torch.device) -> None:
        self._block = block
        self._device = device
        self._host = torch.from_numpy(block.results)
        self._asked = torch.from_numpy(block.asked)
        self._host_told = torch.from_numpy(block.told)
        slots = len(block.results)
        self.entries = torch.full((slots + 1, RING, ENTRY.width), -1, dtype=torch.int32, device=device)
        told = (slots + 1, *self._host_told.shape[1:])
        self._told = torch.zeros(told, dtype=torch.int32, device=device)
        if device.type == "cuda":
            _pin(block)

    def tell(self, logits: Tensor, drawn: Tensor, batch: Batch) -> None:
        """Copy the log probabilities that rows are told, behind what the device is doing.

        Args:
            logits: (R, V) raw fp32.
            drawn: (RESULT.width, R) int32.
            batch: of the rows.
        """
        if batch.asked:
            self._tell_asked(logits, batch)
        if batch.logprobs:
            slots, places = to_device(np.stack([batch.slots, batch.steps % RING]), self._device).long()
            self._told[slots, places] = best_scores(logits, drawn[RESULT["token"]]).transpose(0, 1)
            self._host_told.copy_(self._told[:-1], non_blocking=True)

    def send(self) -> None:
        """Copy the entries, behind what has written them."""
        self._host.copy_(self.entries[:-1], non_blocking=True)

    def _tell_asked(self, logits: Tensor, batch: Batch) -> None:
        """Copy the log probabilities of the tokens that some rows ask for."""
        told, begin = asked_scores(logits, batch.asked), 0
        for index, ids in batch.asked.items():
            there = self._asked[int(batch.slots[index]), : len(ids)]
            there.copy_(told[begin : begin + len(ids)], non_blocking=True)
            begin += len(ids)


def _pin(block: Block) -> None:
    """Let the card write the block by itself; where it may not, each copy waits for the step."""
    error = torch.cuda.cudart().cudaHostRegister(block.memory.ctypes.data, block.memory.nbytes, 0)
    if int(error):
        log.warning("results are copied by way of the driver, which is slower: CUDA error %d", int(error))
