"""The draw on a card: the kernels of the fast runner, over slots and histories of this engine's own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from endmark.worker.engine.cuda.kernels.inputs import begin_step, note_tokens
from endmark.worker.engine.cuda.kernels.sampling import finish_step
from endmark.worker.engine.cuda.rooms import Rooms, SampledRows, Steering
from endmark.worker.engine.cuda.slots import SlotState
from endmark.worker.engine.cuda.staging import Upload, to_device
from endmark.worker.engine.layout import RESULT, STEP
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.vllm.block import ENTRY, RING
from endmark.worker.vllm.drawing import Batch
from endmark.worker.vllm.leaving import leave_step

_INPUT = ("slot", "length", "step", "position", "call")


class DeviceDrawing:
    """See `Drawing`. A slot has one page, which holds the tokens of its row from the first one on."""

    def __init__(
        self,
        slots: int,
        context: int,
        vocabulary: int,
        eos_ids: Sequence[int],
        sentence_table: Tensor | None,
        device: torch.device,
    ) -> None:
        """Make room.

        Args:
            slots: rows that run at once.
            context: tokens of the longest row.
            vocabulary: tokens that have scores.
            eos_ids: all end tokens.
            sentence_table: (STATES, V) uint8 of `jobs.landing.tabulate`.
            device: of the logits.
        """
        self._device, self._count = device, slots
        ends = sorted(eos_ids)
        self._eos_ids = torch.tensor(ends, dtype=torch.int32, device=device)
        self._table = sentence_table.to(device) if sentence_table is not None else None
        self._slots = SlotState(slots, 1, ends, device, spare_page=slots)
        self._history = torch.zeros(slots + 1, context + 1, dtype=torch.int32, device=device)
        self._rooms = Rooms.build(self._slots.tables, self._slots.lists, self._history, vocabulary)
        self._upload = Upload(STEP.width + 1, slots, device)  # the last are the rows' epochs
        self._tokens = torch.zeros(slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros(slots, dtype=torch.int64, device=device)
        # Compiled now and not in the middle of the first rows.
        logits, nothing = torch.zeros(1, vocabulary, device=device), _nothing(slots)
        entries = torch.zeros(slots + 1, RING, ENTRY.width, dtype=torch.int32, device=device)
        self.leave(logits, self.draw(logits, nothing), nothing, entries)

    def admit(self, rows: Sequence[tuple[PrefillRow, Sequence[int]]]) -> None:
        """Keep what rows bring to their slots; the tokens of those alone whose scores they change."""
        self._slots.admit([row for row, _ in rows])
        for row, tokens in rows:
            if row.sampling.adjusts or row.bad_words:
                held = to_device(torch.tensor(tokens, dtype=torch.int32).numpy(), self._device)
                self._history[row.slot, : len(tokens)] = held
        last = [[row.slot, tokens[-1]] for row, tokens in rows]
        self._slots.note_last(to_device(torch.tensor(last, dtype=torch.int32).numpy(), self._device))

    def draw(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return what was drawn; columns of rows that draw nothing are of no meaning."""
        rows = len(batch.slots)
        block = self._upload.next()
        block[:] = 0
        block[STEP["slot"]] = block[STEP["changed_slot"]] = block[STEP["changed_page"]] = self._count
        for name, values in zip(
            _INPUT, (batch.slots, batch.lengths, batch.steps, batch.positions, batch.calls), strict=True
        ):
            block[STEP[name], :rows] = values
        block[STEP.width, :rows] = batch.epochs
        self._upload.send()
        inputs, slots = self._upload.device_block, self._slots
        begin_step(inputs, slots.tables, slots.records, self._tokens, self._positions)
        note_tokens(self._tokens, inputs[STEP["slot"]], inputs[STEP["length"]], slots.tables, self._history)
        self._rooms.uploads.send(batch.masks)
        result = torch.empty(RESULT.width, rows, dtype=torch.int32, device=self._device)
        sampled = SampledRows(*(inputs[STEP[name], :rows] for name in ("slot", "length", "step", "position")))
        steering = Steering(slots.targets, slots.inserts)
        finish_step(logits, self._eos_ids, sampled, slots.records, self._table, steering, self._rooms, result)
        return result

    def leave(self, logits: Tensor, drawn: Tensor, batch: Batch, entries: Tensor) -> None:
        """Make each row's token the best, and write its result; the batch is that of the last draw."""
        del batch  # which the card was told of for the draw
        leave_step(logits, self._upload.device_block, drawn, entries)


def _nothing(slot: int) -> Batch:
    """Return a batch of one row, in the slot of those that draw nothing."""
    zero = np.zeros(1, np.int32)
    return Batch(zero + slot, zero, zero, zero, zero, zero, [], {}, logprobs=False, tokens=lambda _: [])
