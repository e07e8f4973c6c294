"""What engine and processors tell each other around each step, where hosts that share no memory have one model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endmark.worker.vllm.block import Block


class Exchange:
    """The block of an engine and those of its processors on other hosts, brought together around each step.

    Args:
        llm: vLLM's engine, which calls functions in its workers.
        block: of the engine.
    """

    def __init__(self, llm: Any, block: Block) -> None:  # noqa: ANN401
        self._llm, self._block = llm, block
        self._calls = block.calls.copy()  # those that the processors have

    def give(self, masked: Sequence[int]) -> None:
        """Hand over what the next draws are to know: new calls, and the masks of the slots `masked`."""
        new = bool((self._block.calls != self._calls).any())
        if not new and not masked:
            return
        from endmark.worker.vllm.processor import take_in

        self._calls = self._block.calls.copy()
        slots = np.array(masked, np.int64)
        self._llm.collective_rpc(take_in, args=(self._calls if new else None, slots, self._block.masks[slots]))

    def fetch(self) -> None:
        """Take over what has been drawn."""
        from endmark.worker.vllm.processor import hand_out

        told: list[dict[str, NDArray[Any]]] = self._llm.collective_rpc(hand_out)
        for parts in told:
            for name, values in parts.items():
                getattr(self._block, name)[:] = values
