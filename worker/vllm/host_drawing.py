"""The draw in plain PyTorch, where there is no CUDA: the arithmetic of the plain runner."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from endmark.worker.engine.adjusting import Written, adjust
from endmark.worker.engine.layout import RESULT, SLOT
from endmark.worker.engine.plan import PrefillRow, StepResult
from endmark.worker.engine.step_end import StepEnd
from endmark.worker.vllm.block import ENTRY, RING
from endmark.worker.vllm.drawing import Batch


class HostDrawing:
    """See `Drawing`."""

    def __init__(
        self, slots: int, eos_ids: Sequence[int], sentence_table: Tensor | None, device: torch.device
    ) -> None:
        """Make room.

        Args:
            slots: rows that run at once.
            eos_ids: all end tokens.
            sentence_table: (STATES, V) uint8 of `jobs.landing.tabulate`.
            device: of the logits.
        """
        self._device = device
        self._slots = slots
        self._eos_ids = torch.tensor(sorted(eos_ids), device=device)
        self._end = StepEnd(self._eos_ids, slots, sentence_table, device)
        self._rows: dict[int, PrefillRow] = {}

    def admit(self, rows: Sequence[tuple[PrefillRow, Sequence[int]]]) -> None:
        """Keep what rows bring to their slots."""
        for row, _ in rows:
            self._rows[row.slot] = row
            self._end.admit(row)

    def draw(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return what was drawn; columns of rows that draw nothing are 0."""
        chosen = np.flatnonzero(batch.slots < self._slots)
        result = torch.zeros(RESULT.width, len(batch.slots), dtype=torch.int32, device=self._device)
        if not len(chosen):
            return result
        rows = torch.from_numpy(chosen).to(self._device)
        raw = logits[rows].float()
        slots, steps, positions = (
            torch.from_numpy(values[chosen]).long().to(self._device)
            for values in (batch.slots, batch.steps, batch.positions)
        )
        self._end.call(slots.tolist(), steps.tolist(), batch.calls[chosen].tolist())
        self._end.mask(batch.masks)
        drawn = self._end.draw(raw, self._adjusted(raw, slots, chosen.tolist(), batch), slots, steps, positions)
        result[:, rows] = _packed(drawn).to(self._device)
        return result

    def leave(self, logits: Tensor, drawn: Tensor, batch: Batch, entries: Tensor) -> None:
        """Make each row's token the best, and write its result; see `Drawing`."""
        slots, epochs, steps = (
            torch.from_numpy(values).to(self._device) for values in (batch.slots, batch.epochs, batch.steps)
        )
        told = torch.zeros(ENTRY.width, len(batch.slots), dtype=torch.int32, device=self._device)
        told[[ENTRY[name] for name in RESULT]] = drawn
        told[ENTRY["epoch"]], told[ENTRY["step"]] = epochs, steps
        told[ENTRY["sum"]] = told.sum(0, dtype=torch.int32)
        entries[slots.long(), (steps % RING).long()] = told.T
        logits.scatter_(1, drawn[RESULT["token"]].long().unsqueeze(-1), torch.inf)

    def _adjusted(self, raw: Tensor, slots: Tensor, chosen: Sequence[int], batch: Batch) -> Tensor:
        """Return the scores (R, V) after the rows' penalties; the same tensor where no row has any."""
        adjusts = SLOT.of(self._end.records, "adjusted")[slots].nonzero().squeeze(-1)
        if not len(adjusts):
            return raw
        held = [batch.tokens(chosen[index]) for index in adjusts.tolist()]
        longest = max(map(len, held))
        padded = [[*tokens, *[tokens[-1]] * (longest - len(tokens))] for tokens in held]
        rows = [self._rows[slot] for slot in slots[adjusts].tolist()]
        sizes = [[len(tokens)] for tokens in held], [[row.prompt] for row in rows]
        written = Written(*map(self._ints, (padded, *sizes)))
        scores = raw[adjusts]
        adjust(scores, rows, written, self._eos_ids)
        return raw.index_copy(0, adjusts, scores)

    def _ints(self, values: list[list[int]]) -> Tensor:
        """Return int64 on the device."""
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _packed(drawn: StepResult) -> Tensor:
    """Return a result as (RESULT.width, R) int32."""
    packed = torch.zeros(RESULT.width, len(drawn.token_ids), dtype=torch.int32)
    for name, values in (("token", drawn.token_ids), ("rank", drawn.eos_ranks), ("flags", drawn.flags)):
        packed[RESULT[name]] = torch.tensor(values, dtype=torch.int32)
    packed[RESULT["eos_prob"]] = torch.tensor(drawn.eos_probs, dtype=torch.float32).view(torch.int32)
    return packed
