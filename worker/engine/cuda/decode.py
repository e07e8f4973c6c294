"""One token for each of many rows: as a captured step, or at the front of a pass that computes prompts too."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endmark.worker.engine.cuda.kernels.inputs import begin_step
from endmark.worker.engine.cuda.replay import Recorder
from endmark.worker.engine.cuda.rooms import SampledRows
from endmark.worker.engine.cuda.slots import SlotState
from endmark.worker.engine.cuda.staging import Download, Upload, to_device
from endmark.worker.engine.layout import RESULT, STEP
from endmark.worker.engine.plan import DecodePlan

_CHANGE = [STEP[name] for name in ("changed_slot", "changed_index", "changed_page")]
_BEFORE_RECORDING = 64  # steps for which a larger one serves
# Batch sizes with a graph of their own. Between two of them at most a sixteenth of a step is for nothing.
_BATCHES = (1, 2, 4, 8, 16, 24, *range(32, 256, 16), *range(256, 512, 32), *range(512, 4096, 64))


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """R rows that run, on the device."""

    tokens: Tensor  # (R,) int64: the last one of each
    positions64: Tensor  # (R,) int64, for the model
    rows: SampledRows  # whose `lengths` are the tokens' places
    on_host: Sequence[int] = ()  # their slots

    @classmethod
    def of(cls, block: Tensor, slots: SlotState, tokens: Tensor, positions64: Tensor) -> Self:
        """Fill in tokens and places, both (R,) int64, from a block (STEP.width, R) int32 on the device."""
        begin_step(block, slots.tables, slots.records, tokens, positions64)
        return cls(
            tokens,
            positions64,
            SampledRows(*(block[STEP[name]] for name in ("slot", "length", "step", "position"))),
        )

    @classmethod
    def sent(cls, plan: DecodePlan, slots: SlotState) -> Self:
        """Send the rows of a plan, of which there are some, in one copy behind what the device is doing."""
        device, count = slots.tables.device, len(plan.slots)
        width = -(-count // 4) * 4  # Triton would compile its kernels anew for numbers that begin elsewhere
        block = _idle(width, slots.spare, slots.spare_page)
        _fill(block, plan)
        sent = to_device(block, device)
        places = torch.empty(2, width, dtype=torch.int64, device=device)
        whole = cls.of(sent, slots, *places)
        rows = SampledRows(*(row[:count] for row in whole.rows))
        return cls(whole.tokens[:count], whole.positions64[:count], rows, plan.slots)


class DecodeStep:
    """A step of up to so many rows, captured: whole, or the draw apart, which then waits for what it is told."""

    def __init__(
        self,
        size: int,
        slots: SlotState,
        recorder: Recorder,
        compute: Callable[[DecodeInputs], Tensor],
        draw: Callable[[Tensor, DecodeInputs, Tensor], Tensor | None],
        scores: Tensor | None = None,
    ) -> None:
        """Record it.

        Args:
            size: rows.
            slots: of the runner.
            recorder: of its graphs.
            compute: returns the scores (size, V).
            draw: draws from them; the result (RESULT.width, size) int32 is written. It returns `best_scores` where
                log probabilities are told.
            scores: (size, V), where they stand until they are drawn from, if that is a graph of its own.
        """
        device = slots.tables.device
        self._idle = _idle(size, slots.spare, slots.spare_page)
        self._upload = Upload(STEP.width, size, device)
        self._result = torch.zeros(RESULT.width, size, dtype=torch.int32, device=device)
        tokens, positions = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        block = self._upload.device_block
        self._upload.next()[:] = self._idle
        self._upload.send()
        self._best: Tensor | None = None  # it lies in the graph's memory

        inputs = DecodeInputs(
            tokens, positions, SampledRows(*(block[STEP[name]] for name in ("slot", "length", "step", "position")))
        )

        def run() -> None:
            found = compute(DecodeInputs.of(block, slots, tokens, positions))
            if scores is None:
                self._best = draw(found, inputs, self._result)
            else:
                scores.copy_(found)

        def run_late() -> None:
            assert scores is not None
            self._best = draw(scores, inputs, self._result)

        self._replay = recorder.record(run)
        self._replay_draw = recorder.record(run_late) if scores is not None else None

    def run(self, plan: DecodePlan) -> None:
        """Start the step; all but the draw where that is a graph of its own."""
        block = self._upload.next()
        block[:] = self._idle
        _fill(block, plan)
        self._upload.send()
        self._replay()

    def drawn(self) -> tuple[Download, Download | None]:
        """Start the copies of what was sampled, and of best tokens where they are told; draw first if need be."""
        if self._replay_draw is not None:
            self._replay_draw()
        return Download(self._result), Download(self._best) if self._best is not None else None


class Kind(NamedTuple):
    """What sets captured steps of one size apart."""

    tells: bool = False  # whether log probabilities are told
    late: bool = False  # whether the draw is a graph of its own


class RecordedSteps:
    """The steps that have been captured, by rows and kind.

    Few jobs ask for log probabilities or shapes: steps of those kinds are captured when one does, which takes a
    card a third of a second. While a batch runs out its size is another one every few steps, so a larger step
    serves until so many could have been smaller.
    """

    def __init__(self, sizes: Sequence[int], record: Callable[[int, Kind], DecodeStep]) -> None:
        """Hold none yet.

        Args:
            sizes: in rows, ascending.
            record: captures a step.
        """
        self._sizes, self._record = sizes, record
        self._steps: dict[Kind, dict[int, DecodeStep]] = {}
        self._wanted: Counter[tuple[int, Kind]] = Counter()  # steps that could have been of that size

    def record_all(self, kind: Kind) -> None:
        """Capture all sizes of a kind, the largest first: the others find room in its memory."""
        self._steps[kind] = {size: self._record(size, kind) for size in reversed(self._sizes)}

    def of(self, rows: int, kind: Kind) -> DecodeStep:
        """Return a step for at least so many rows."""
        size = next(size for size in self._sizes if size >= rows)
        known = self._steps.setdefault(kind, {})
        if size not in known:
            larger = min((other for other in known if other > size), default=None)
            self._wanted[size, kind] += 1
            if larger is not None and self._wanted[size, kind] < _BEFORE_RECORDING:
                return known[larger]
            known[size] = self._record(size, kind)
        return known[size]


def bucket_sizes(max_rows: int) -> list[int]:
    """Return the batch sizes that get a graph, the largest being `max_rows`."""
    return [*(size for size in _BATCHES if size < max_rows), max_rows]


def _idle(size: int, spare_slot: int, spare_page: int) -> NDArray[np.int32]:
    """Return the inputs of rows that nobody asked for: they run in the spare slot and its spare page."""
    column = STEP.pack({"slot": spare_slot, "changed_slot": spare_slot, "changed_page": spare_page})
    return np.repeat(column[:, None], size, 1)


def _fill(block: NDArray[np.int32], plan: DecodePlan) -> None:
    """Write the rows of a plan into the first columns of a step's inputs."""
    rows = len(plan.slots)
    columns = {"slot": plan.slots, "length": plan.lengths, "step": plan.steps, "position": plan.positions}
    for name, values in columns.items():
        block[STEP[name], :rows] = values
    if plan.calls:
        block[STEP["call"], :rows] = plan.calls
    for index, change in enumerate(plan.new_pages):
        block[_CHANGE, index] = change
