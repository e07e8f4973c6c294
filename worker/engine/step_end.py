"""The end of a step on whole logits: strategies, sampling, EOS statistics, and what steers rows.

What `worker.engine.cuda.kernels.sampling` does in one launch is done here in plain PyTorch, and is its oracle.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endmark.jobs.landing import LANDED, START
from endmark.worker.engine.flags import FORCED, HIDDEN, NATURAL
from endmark.worker.engine.layout import PHASE_SCORES, SCORES, SLOT
from endmark.worker.engine.masks import allowed
from endmark.worker.engine.plan import PrefillRow, StepResult, steering_of
from endmark.worker.engine.sampler import Draw, choose
from endmark.worker.engine.scores import changed_rows, eos_statistics, forced_rows, shape_scores
from endmark.worker.engine.slot_record import slot_record
from endmark.worker.engine.steering import RowSteering


class StepEnd:
    """Draws the tokens of steps, and keeps what the device keeps for each slot between them.

    Attributes:
        records: (S, SLOT.width) int32.
    """

    def __init__(self, eos_ids: Tensor, slots: int, sentence_table: Tensor | None, device: torch.device) -> None:
        """Make room.

        Args:
            eos_ids: (E,) int64.
            slots: rows that may run at once.
            sentence_table: (STATES, V) uint8 of `jobs.landing.tabulate`, if rows look at landing spots.
            device: of the logits.
        """
        self.records = torch.zeros(slots, SLOT.width, dtype=torch.int32, device=device)
        self._eos_ids = eos_ids
        self._sentence_table = sentence_table
        self._masks: dict[int, NDArray[np.int32]] = {}  # by slot, of the rows that have one
        self._steered: dict[int, RowSteering] = {}  # by slot, of the rows that have any

    def admit(self, row: PrefillRow) -> None:
        """Keep what a row brings for its steps."""
        self.records[row.slot] = torch.from_numpy(slot_record(row))
        self._steered.pop(row.slot, None)
        self._masks.pop(row.slot, None)
        if row.mask is not None:
            self._masks[row.slot] = row.mask
        if row.phase is not None or row.insertion is not None:
            self._steered[row.slot] = steering_of(row)

    def call(self, slots: Sequence[int], steps: Sequence[int], calls: Sequence[int]) -> None:
        """Let the insertions of the rows that are called for begin with this step."""
        for slot, step, call in zip(slots, steps, calls, strict=False):
            if call and slot in self._steered:
                self._steered[slot].call(call, step)

    def mask(self, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Keep which tokens may follow in this step, of the slots that have masks."""
        for slot, words in masks:
            if (words == -1).all():
                self._masks.pop(slot, None)
            else:
                self._masks[slot] = words

    def draw(self, raw: Tensor, logits: Tensor, slots: Tensor, steps: Tensor, positions: Tensor) -> StepResult:
        """Draw each row's token.

        Args:
            raw: (R, V) fp32, as the model gave them.
            logits: (R, V) fp32, after the rows' penalties: without its strategies a row would draw from these.
            slots: (R,) int64, as `steps` and `positions`.
        """
        probs, ranks = eos_statistics(raw, self._eos_ids)
        logits, shut = self._masked(logits, slots)
        records = self._present(slots)
        draw = Draw.of(records, positions)
        tokens, flags = torch.empty_like(slots), torch.empty_like(slots)
        counted = steps - SLOT.of(records, "origin")
        for rows, targets in self._by_targets(slots):
            drawn = self._drawn(logits[rows], targets, records[rows], counted[rows], draw.select(rows))
            tokens[rows], flags[rows] = drawn
        flags[shut & (ranks > 0)] &= ~HIDDEN
        landing = SLOT.of(records, "landing").long()
        begun = self._steer(slots, steps, tokens, flags)
        SLOT.of(self.records, "last")[slots] = tokens.int()
        if self._sentence_table is not None and bool((SLOT.of(records, "after_sentence") > 0).any()):
            after = self._sentence_table[landing, tokens].int()
            after[begun] = START
            SLOT.of(self.records, "landing")[slots] = after
        return StepResult(tokens.tolist(), probs.tolist(), ranks.tolist(), flags.tolist())

    def _masked(self, logits: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores without what may not follow, and in which rows (R,) that has excluded all EOS ids."""
        shut = torch.zeros_like(slots, dtype=torch.bool)
        masks = [(row, self._masks[slot]) for row, slot in enumerate(slots.tolist()) if slot in self._masks]
        if not masks:
            return logits, shut
        rows = torch.tensor([row for row, _ in masks], device=logits.device)
        kept = np.stack([allowed(words, logits.shape[-1]) for _, words in masks])
        before = logits[rows]
        after = before.masked_fill(~torch.from_numpy(kept).to(logits.device), -torch.inf)
        ends = [scores[:, self._eos_ids].amax(-1) == -torch.inf for scores in (before, after)]
        shut[rows] = ends[1] & ~ends[0]
        return logits.index_copy(0, rows, after), shut

    def _present(self, slots: Tensor) -> Tensor:
        """Return the rows' records, in which the score numbers are those of the phase where it is open."""
        records = self.records[slots]
        if self._steered:
            is_open = [slot in self._steered and self._steered[slot].is_open for slot in slots.tolist()]
            opened = torch.tensor(is_open, device=slots.device).unsqueeze(-1)
            begin, phase = SLOT[SCORES.real[0]], SLOT[PHASE_SCORES[0]]
            present, other = records[:, begin : begin + SCORES.width], records[:, phase : phase + SCORES.width]
            records[:, begin : begin + SCORES.width] = torch.where(opened, other, present)
        return records

    def _by_targets(self, slots: Tensor) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """Group a step's rows by the ids that their score numbers act on: EOS, or the ends of an open phase."""
        groups: dict[tuple[int, ...], list[int]] = {}
        if self._steered:
            for index, slot in enumerate(slots.tolist()):
                steering = self._steered.get(slot)
                groups.setdefault(steering.targets if steering is not None else (), []).append(index)
        if groups.keys() <= {()}:
            yield slice(None), self._eos_ids
            return
        for end_ids, rows in groups.items():
            targets = torch.tensor(end_ids, device=slots.device) if end_ids else self._eos_ids
            yield torch.tensor(rows, device=slots.device), targets

    def _steer(self, slots: Tensor, steps: Tensor, tokens: Tensor, flags: Tensor) -> list[int]:
        """Let what steers rows change their tokens and flags, in place; return those whose text begins anew.

        It does where a phase opens, and behind its end.
        """
        begun: list[int] = []
        if not self._steered:
            return begun
        eos_ids = self._eos_ids.tolist()
        for index, (slot, step) in enumerate(zip(slots.tolist(), steps.tolist(), strict=True)):
            row = self._steered.get(slot)
            if row is not None:
                was_open = row.is_open
                tokens[index], flags[index] = row.steer(step, int(tokens[index]), int(flags[index]), eos_ids)
                if was_open != row.is_open:
                    begun.append(index)
                if was_open and row.restarted is not None and not row.is_open:
                    SLOT.of(self.records, "origin")[slot] = row.restarted
        return begun

    def _drawn(
        self, logits: Tensor, targets: Tensor, records: Tensor, steps: Tensor, draw: Draw
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens and flags of rows whose numbers act on the same ids; see `shape_scores`."""
        ended = SLOT.of(records, "landing") >= LANDED
        shaped = changed_rows(records, steps, ended)
        rows = shaped.nonzero().squeeze(-1)
        scores = logits
        if len(rows) == len(logits):
            scores = shape_scores(logits, targets, records, steps, ended)
        elif len(rows):
            scores = logits.clone()
            scores[rows] = shape_scores(logits[rows], targets, records[rows], steps[rows], ended[rows])
        tokens, hidden = choose(scores, draw, self._eos_ids)
        flags = self._flags(logits, targets, tokens, draw, shaped, forced_rows(records, steps))
        return tokens, flags + hidden.long() * HIDDEN

    def _flags(
        self, logits: Tensor, targets: Tensor, tokens: Tensor, draw: Draw, shaped: Tensor, forced: Tensor
    ) -> Tensor:
        """Return (R,) int64: where an end came, whether one would have without the strategy, or had to."""
        meant = torch.isin(tokens, targets)
        ends = meant | torch.isin(tokens, self._eos_ids)
        flags = torch.where(shaped, torch.where(ends & forced, FORCED, 0), NATURAL)
        rows = (shaped & ends).nonzero().squeeze(-1)
        if rows.numel():
            without, _ = choose(logits[rows], draw.select(rows), self._eos_ids)
            alike = torch.where(meant[rows], torch.isin(without, targets), torch.isin(without, self._eos_ids))
            flags[rows] = torch.where(alike, NATURAL, flags[rows])
        return flags
