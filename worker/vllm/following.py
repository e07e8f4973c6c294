"""Which rows stand where in vLLM's batch, as it tells of rows that come, leave and are moved."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.plan import PrefillRow
from endmark.worker.vllm.block import Block
from endmark.worker.vllm.drawing import Batch

KEY = "endmark"  # in a request's extra arguments


@dataclass(frozen=True, slots=True)
class Placed:
    """A row in vLLM's batch."""

    row: PrefillRow
    epoch: int
    prompt: list[int]  # all tokens that it came with
    answer: list[int]  # those since then, which vLLM adds to


def extra_args(row: PrefillRow, epoch: int) -> dict[str, object]:
    """Return what a request brings to the processors, through vLLM and whatever processes it has."""
    return {KEY: [epoch, pickle.dumps(row)]}


class Following:
    """The rows of vLLM's batch by their place, and the numbers of each step's batch.

    Args:
        block: that holds calls and masks.
        swap: vLLM's word for two rows that change places.
    """

    def __init__(self, block: Block, swap: object) -> None:
        self._block, self._swap = block, swap
        self._slots = len(block.results)
        self._rows: dict[int, Placed] = {}
        self._epochs: dict[int, int] = {}  # of the rows that were taken in, by slot
        self._called = np.zeros(self._slots, np.int32)  # the last calls that were heard of, by slot
        self._order: list[Placed] = []
        self._answers: list[list[int]] = []
        self._masked: list[int] = []  # places in the batch
        self._logprobs: list[int] = []
        self._asked: dict[int, Sequence[int]] = {}
        self._begun = np.zeros(
            (self._slots, 5), np.int32
        )  # by place: slot, epoch, and length, step, position then

    def update(self, update: Any, computed: NDArray[np.int32]) -> tuple[list[Placed], int]:  # noqa: ANN401
        """Take in rows that left, came and were moved; return those that are new, and how many are computed anew.

        A row that misses a step comes again too, as do all of a model in stages; what was computed of it is there.

        Args:
            update: vLLM's.
            computed: tokens of each place's row of which vLLM has keys and values, (at least R,).
        """
        for index in update.removed:
            self._rows.pop(index, None)
        fresh, again = list[Placed](), list[Placed]()
        for index, params, prompt, answer in update.added:
            epoch, packed = params.extra_args[KEY]
            placed = self._rows[index] = Placed(pickle.loads(packed), epoch, prompt, answer)  # noqa: S301  our own
            row = placed.row
            self._begun[index] = row.slot, epoch, len(prompt) - 1, row.step, row.position
            if self._epochs.get(row.slot) != epoch:
                self._epochs[row.slot] = epoch
                fresh.append(placed)
            else:
                again.append(placed)
        for source, target, direction in update.moved:
            moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
            self._begun[[source, target]] = self._begun[[target, source]]
            if moved is not None:
                self._rows[target] = moved
            if other is not None and direction == self._swap:
                self._rows[source] = other
        self._settle()
        return fresh, self._computed_again(again, computed) if again else 0

    def _computed_again(self, again: Sequence[Placed], computed: NDArray[np.int32]) -> int:
        """Return of how many rows with answers vLLM lacks more than the last token."""
        places = {id(placed): index for index, placed in enumerate(self._order)}
        return sum(
            bool(row.answer) and int(computed[places[id(row)]]) < len(row.prompt) + len(row.answer) - 1
            for row in again
        )

    def _settle(self) -> None:
        """Put down what stays the same of the batch until it changes."""
        self._order = [self._rows[index] for index in range(len(self._rows))]
        self._answers = [placed.answer for placed in self._order]
        rows = [placed.row for placed in self._order]
        self._masked = [index for index, row in enumerate(rows) if row.mask is not None]
        self._logprobs = [index for index, row in enumerate(rows) if row.logprobs is not None]
        self._asked = {index: row.asked for index, row in enumerate(rows) if row.asked}

    @property
    def has_masks(self) -> bool:
        """Whether a mask says of any of the rows which tokens may follow."""
        return bool(self._masked)

    def batch(self, partial: NDArray[np.bool_]) -> Batch:
        """Return the rows of a step; those that are computed in part only (R,) draw nothing."""
        written = np.array([len(answer) for answer in self._answers], np.int32)
        slots, epochs, *begun = self._begun[: len(written)].T.copy()
        slots = np.where(partial, np.int32(self._slots), slots)
        lengths, steps, positions = (values + written for values in begun)
        masks = [
            (slot, self._block.masks[slot].copy())
            for slot in (self._order[index].row.slot for index in self._masked if not partial[index])
        ]
        asked = {index: ids for index, ids in self._asked.items() if not partial[index]}
        logprobs = any(not partial[index] for index in self._logprobs)
        calls = self._calls(slots, epochs)
        return Batch(slots, lengths, steps, positions, epochs, calls, masks, asked, logprobs, self.tokens)

    def tokens(self, index: int) -> Sequence[int]:
        """Return all tokens of a row."""
        placed = self._order[index]
        return [*placed.prompt, *placed.answer]

    def _calls(self, slots: NDArray[np.int32], epochs: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return what is called for of the rows that draw, each call once."""
        calls = np.zeros_like(slots)
        numbers = self._block.calls[:, 2]
        if (numbers == self._called).all():
            return calls
        for index in np.flatnonzero(slots < self._slots).tolist():
            slot = slots[index]
            call, epoch, number = self._block.calls[slot]
            if number != self._called[slot] and epoch == epochs[index]:
                calls[index] = call
                self._called[slot] = number
        return calls
