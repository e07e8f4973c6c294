"""The rows that vLLM computes: which slot each has, and what the block says of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.logprobs import TokenScores
from endmark.worker.engine.row import RowState
from endmark.worker.engine.steering import Call
from endmark.worker.vllm.block import ENTRY, RING, Block
from endmark.worker.vllm.core import VllmCore

_FLAG = np.zeros(0, np.int32)  # in the place of a mask, which is handed over before each draw


class Running:
    """Rows in slots. A row that is taken back keeps its slot and begins a new epoch there.

    Args:
        core: that computes them.
        block: shared with the processors.
    """

    def __init__(self, core: VllmCore, block: Block) -> None:
        self._core, self._block = core, block
        slots = core.rows
        self._free = list(range(slots - 1, -1, -1))
        self._rows: dict[int, RowState] = {}  # by slot
        self._names: dict[int, str] = {}  # what vLLM calls them
        self._slots: dict[str, int] = {}  # by these names
        self._reads = np.zeros(slots, np.int64)  # the step of each whose result comes next

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RowState]:
        """Return the rows."""
        return iter(list(self._rows.values()))

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def begin(self, row: RowState) -> None:
        """Give a row a slot."""
        row.slot = self._free.pop()
        self._rows[row.slot] = row
        self._start(row)

    def again(self, row: RowState) -> None:
        """Let a row go on from where its answer was taken back to; vLLM finds what it has computed of it."""
        self._core.abort([name := self._names[row.slot]])
        del self._slots[name]
        row.launched = row.answer.generated
        self._start(row)

    def _start(self, row: RowState) -> None:
        """Let vLLM compute a row from its tokens so far."""
        slot, token_ids = row.slot, row.token_ids
        plan = row.plan([], 0)
        row.call = Call.NONE
        plan = replace(plan, pages=(slot,), mask=_FLAG if row.answer.mask is not None else None)
        self._block.epochs[slot] += 1
        self._reads[slot] = row.launched
        budget = row.answer.whole_budget - row.answer.generated
        epoch, adapter = int(self._block.epochs[slot]), row.request.adapter
        name = self._core.add(plan, epoch, token_ids, budget, adapter)
        self._names[slot], self._slots[name] = name, slot

    def end(self, rows: Sequence[RowState]) -> None:
        """Take back the slots of rows, and let vLLM forget them."""
        if not rows:
            return
        names = [self._names.pop(row.slot) for row in rows]
        self._core.abort(names)
        for name, row in zip(names, rows, strict=True):
            del self._slots[name]
            del self._rows[row.slot]
            self._free.append(row.slot)
            row.slot = -1

    def named(self, name: str) -> RowState | None:
        """Return the row that vLLM calls so; None if it is no row any more."""
        slot = self._slots.get(name)
        return None if slot is None else self._rows[slot]

    def results(self, rows: Sequence[RowState]) -> Iterator[tuple[RowState, int, float, int, int]]:
        """Return those rows whose next result has come: each with its token, EOS probability, rank and flags."""
        if not rows:
            return
        slots = np.array([row.slot for row in rows], np.int64)
        entries, there = self._block.found(slots, self._reads[slots])
        self._reads[slots] += there
        entries = np.ascontiguousarray(entries[there].T)
        probs = entries[ENTRY["eos_prob"]].view(np.float32)
        told = (entries[ENTRY["token"]], probs, entries[ENTRY["rank"]], entries[ENTRY["flags"]])
        came = (rows[index] for index in np.flatnonzero(there).tolist())
        yield from zip(came, *(values.tolist() for values in told), strict=True)

    def scores(self, row: RowState, step: int) -> TokenScores:
        """Return what a row is told of its token of a step, whose result has come."""
        count = 1 + (row.request.logprobs or 0)
        ids, log_probs = self._block.told[row.slot, step % RING, :, :count].copy()
        return TokenScores(ids, log_probs.view(np.float32))

    def asked(self, row: RowState) -> tuple[float, ...]:
        """Return the log probabilities that a row has asked for, whose first result has come."""
        return tuple(self._block.asked[row.slot, : len(row.request.asked)].tolist())

    def call(self, row: RowState) -> None:
        """Let a row's insertion begin with the next token that is drawn."""
        epoch, launched = self._block.launched[row.slot]
        if epoch == self._block.epochs[row.slot]:
            row.launched = max(row.launched, int(launched))
        row.insert()
        if row.call:
            number = self._block.calls[row.slot, 2] + 1
            self._block.calls[row.slot] = (row.call, self._block.epochs[row.slot], number)
            row.call = Call.NONE

    def allow(self, row: RowState, words: NDArray[np.int32]) -> None:
        """Hand over which tokens may follow in a row's next draw."""
        there = self._block.masks[row.slot]
        there[:] = 0
        there[: len(words)] = words[: len(there)]
