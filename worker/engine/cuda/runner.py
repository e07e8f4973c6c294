"""The fast device path: packed prefill, decode steps as captured CUDA graphs, the host one step behind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from endmark.worker.engine.cuda.attention import PAGED, DeviceBatch
from endmark.worker.engine.cuda.fusion import Fused, fuse
from endmark.worker.engine.cuda.kernels.inputs import begin_step, note_tokens
from endmark.worker.engine.cuda.kernels.sampling import finish_step
from endmark.worker.engine.cuda.prefill import Passes, Piece, PrefillInputs
from endmark.worker.engine.cuda.replay import Recorder
from endmark.worker.engine.cuda.rooms import Rooms, SampledRows, Steering
from endmark.worker.engine.cuda.slots import SlotState
from endmark.worker.engine.cuda.staging import Download, Upload
from endmark.worker.engine.layout import RESULT, STEP
from endmark.worker.engine.logprobs import told_scores
from endmark.worker.engine.plan import DecodePlan, PrefillPlan, StepResult, Ticket
from endmark.worker.engine.scores import asked_scores, best_scores, told_by_row

_CHANGE = [STEP[name] for name in ("changed_slot", "changed_index", "changed_page")]
# Batch sizes with a graph of their own. Between two of them at most a sixteenth of a step is for nothing.
_BATCHES = (1, 2, 4, 8, 16, 24, *range(32, 256, 16), *range(256, 512, 32), *range(512, 4096, 64))

Asked = Mapping[int, Sequence[int]]  # the tokens that rows ask for, by the row's index


class CudaRunner:
    """Runs plans on one model; see `worker.engine.contract.Runner`. One thread owns it."""

    overlaps = True

    def __init__(
        self,
        network: PreTrainedModel,
        eos_ids: Iterable[int],
        *,
        num_pages: int,
        page_size: int,
        max_rows: int,
        prefill_tokens: int,
        context: int,
        sentence_table: Tensor | None = None,
        cache_type: torch.dtype | None = None,
        fused: Fused | None = None,
    ) -> None:
        """Make the cache and capture the graphs.

        Args:
            network: on CUDA, its attention set to `endmark_paged`; or on the CPU, where Triton interprets kernels.
            eos_ids: all end tokens.
            sentence_table: (STATES, V) uint8 of `jobs.landing.tabulate`; needed only by strategies that look
                at landing spots.
            cache_type: of the KV cache; by default the model's.
            fused: what `fuse` has done to the network already.
        """
        self.num_pages, self.page_size, self.max_rows = num_pages, page_size, max_rows
        self.prefill_tokens, self.context = prefill_tokens, context
        self.refill = max(1, max_rows // 16)
        self._network = network
        self._device = network.device
        network.config.get_text_config()._attn_implementation = PAGED
        self._fused = fused if fused is not None else fuse(network)
        kind = cache_type or network.dtype
        self._keys, self._values = _cache(network, num_pages + 1, page_size, kind)
        ends = sorted(eos_ids)
        self._eos_ids = torch.tensor(ends, dtype=torch.int32, device=self._device)
        self._table = sentence_table.to(self._device) if sentence_table is not None else None
        width = -(-context // page_size) + 1
        self._slots = SlotState(max_rows, width, ends, self._device, spare_page=num_pages)
        self._history = torch.zeros(num_pages + 1, page_size, dtype=torch.int32, device=self._device)
        self._rooms: Rooms | None = None
        self._passes = Passes(prefill_tokens, least=page_size)
        self._steps: dict[tuple[int, bool], _DecodeStep] = {}  # by rows, and whether log probabilities are told
        self._logprobs: dict[int, int] = {}  # of the slots whose rows ask for them
        self._sizes = _bucket_sizes(max_rows)
        self._recorder = Recorder(self._device)
        with torch.inference_mode():
            for size in reversed(self._sizes):
                self._steps[size, False] = _DecodeStep(self, size)

    @torch.inference_mode()
    def launch(self, plan: PrefillPlan | DecodePlan) -> Ticket:
        """Start the step; it runs behind those started before."""
        if isinstance(plan, PrefillPlan):
            self._mask([(row.slot, row.mask) for row in plan.rows if row.mask is not None])
            return Ticket(len(plan.rows), self._prefill(plan))
        self._mask(plan.masks)
        rows = len(plan.slots)
        size = next(size for size in self._sizes if size >= rows)
        asked = self._asked(plan.slots)
        key = size, bool(asked)
        if key not in self._steps:  # few jobs ask for log probabilities: the graph is recorded when one does
            self._steps[key] = _DecodeStep(self, size, tells=True)
        drawn, told = self._steps[key].run(plan, self.max_rows)
        return Ticket(rows, _Launched(drawn, told=[(asked, told)] if told is not None else ()))

    def read(self, ticket: Ticket) -> StepResult:
        """Wait for the step and return what it sampled."""
        launched = ticket.payload
        assert isinstance(launched, _Launched)
        got = launched.drawn.wait()[:, : ticket.rows]
        return StepResult(
            token_ids=got[RESULT["token"]].tolist(),
            eos_probs=np.ascontiguousarray(got[RESULT["eos_prob"]]).view(np.float32).tolist(),
            eos_ranks=got[RESULT["rank"]].tolist(),
            flags=got[RESULT["flags"]].tolist(),
            asked={
                row: told
                for asked, scores in launched.scores
                for row, told in told_by_row(scores.wait().view(np.float32).tolist(), asked).items()
            },
            told={
                row: scores
                for asked, block in launched.told
                for row, scores in told_scores(block.wait(), asked).items()
            },
        )

    def forward(self, tokens: Tensor, positions: Tensor, batch: DeviceBatch, keep: Tensor | int) -> Tensor:
        """Run the model over T packed tokens; return the logits (R, V) of those at `keep` (0: of all)."""
        delay = self._fused.rotary
        if delay is not None:
            delay.batch = batch
        try:
            output = self._network(
                input_ids=tokens.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=keep,
                paged=batch,
            )
        finally:
            if delay is not None:
                delay.batch = None
        logits: Tensor = output.logits[0]
        return logits

    def batch(self, slots: Tensor, positions: Tensor, inputs: PrefillInputs | None = None) -> DeviceBatch:
        """Return the step's batch over the runner's cache."""
        tiles = inputs.tiles if inputs is not None else None
        return DeviceBatch(self._keys, self._values, self._slots.tables, slots, positions, tiles)

    def note(self, tokens: Tensor, slots: Tensor, positions: Tensor) -> None:
        """Keep the step's input tokens, of which penalties are made; see `note_tokens`."""
        note_tokens(tokens, slots, positions, self._slots.tables, self._history)

    def sample(self, logits: Tensor, rows: SampledRows, result: Tensor, first_column: int = 0) -> None:
        """Draw tokens; those of the rows' last steps have been noted."""
        if self._rooms is None:  # at the first call, which no graph captures
            self._rooms = Rooms.build(self._slots.tables, self._slots.lists, self._history, logits.shape[1])
        slots = self._slots
        steering = Steering(slots.targets, slots.inserts)
        finish_step(
            logits, self._eos_ids, rows, slots.records, self._table, steering, self._rooms, result, first_column
        )

    def _mask(self, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Set which tokens may follow in the step that is launched next, where only some may."""
        assert self._rooms is not None, "made with the first graph"
        self._rooms.mask(masks)

    def _asked(self, slots: Sequence[int]) -> dict[int, int]:
        """Return how many best tokens rows are told, by their index, of those that ask."""
        if not self._logprobs:
            return {}
        found = ((index, self._logprobs.get(slot)) for index, slot in enumerate(slots))
        return {index: count for index, count in found if count is not None}

    def _prefill(self, plan: PrefillPlan) -> "_Launched":
        """Set the rows' slots and compute their tokens; return what was sampled."""
        self._slots.admit(plan.rows)
        for row in plan.rows:
            self._logprobs.pop(row.slot, None)
            if row.logprobs is not None:
                self._logprobs[row.slot] = row.logprobs
        result = torch.empty(RESULT.width, len(plan.rows), dtype=torch.int32, device=self._device)
        pieces = [Piece(row, row.cached, len(row.token_ids)) for row in plan.rows]
        scores: list[tuple[Asked, Download]] = []
        told: list[tuple[dict[int, int], Download]] = []
        self._passes.run(pieces, lambda group, done: self._compute(group, result, done, scores, told))
        return _Launched(Download(result), scores, told)

    def _compute(
        self,
        pieces: list[Piece],
        result: Tensor,
        done: int,
        scores: list[tuple[Asked, Download]],
        told: list[tuple[dict[int, int], Download]],
    ) -> int:
        """Run one forward pass; return how many rows it has sampled for, behind those `done`.

        Args:
            result: (RESULT.width, R) int32; filled in from column `done` on.
            scores: of the tokens that rows ask for; added to. Of a row that stands there twice the last is meant.
            told: the best tokens of rows that ask for log probabilities; added to likewise.
        """
        inputs = PrefillInputs.of(pieces, self._device)
        self.note(inputs.tokens, inputs.slots, inputs.positions)
        logits = self.forward(
            inputs.tokens, inputs.positions64, self.batch(inputs.slots, inputs.positions, inputs), inputs.keep
        )
        ended = [piece.row for piece in pieces if piece.is_last]
        asked = {index: row.asked for index, row in enumerate(ended) if row.asked}
        if asked:  # before the draw, which may change the logits
            found = asked_scores(logits, asked).view(torch.int32)
            scores.append(({done + index: ids for index, ids in asked.items()}, Download(found)))
        if inputs.sampled:
            self.sample(logits, inputs.rows, result, done)
        counts = self._asked([row.slot for row in ended])
        if counts:
            tokens = result[RESULT["token"], done : done + len(ended)]
            shifted = {done + index: count for index, count in counts.items()}
            told.append((shifted, Download(best_scores(logits, tokens))))
        return inputs.sampled


@dataclass(frozen=True, slots=True)
class _Launched:
    """What a step that was started brings back."""

    drawn: Download  # (RESULT.width, R) int32
    scores: Sequence[tuple[Asked, Download]] = ()  # the bits of fp32 numbers, as of `asked_scores`
    told: Sequence[tuple[Mapping[int, int], Download]] = ()  # by row how many best tokens, as of `best_scores`


class _DecodeStep:
    """A decode step of up to so many rows, captured."""

    def __init__(self, runner: CudaRunner, size: int, *, tells: bool = False) -> None:
        device = runner._device
        self._size = size
        self._tells = tells  # log probabilities
        self._best: Tensor | None = None  # of `best_scores`; it lies in the graph's memory
        self._upload = Upload(STEP.width, size, device)
        self._result = torch.zeros(RESULT.width, size, dtype=torch.int32, device=device)
        self._tokens = torch.zeros(size, dtype=torch.int64, device=device)
        self._positions = torch.zeros(size, dtype=torch.int64, device=device)
        self._spare = runner.num_pages
        self._upload.next()[:] = self._idle(runner.max_rows)
        self._upload.send()
        self._replay = runner._recorder.record(lambda: self._step(runner))

    def _idle(self, spare_slot: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
        """Return inputs of rows that nobody asked for: they run in the spare slot and its spare page."""
        column = STEP.pack({"slot": spare_slot, "changed_slot": spare_slot, "changed_page": self._spare})
        return np.repeat(column[:, None], self._size, 1)

    def _step(self, runner: CudaRunner) -> None:
        inputs = self._upload.device_block
        slots, lengths, steps, positions = (inputs[STEP[name]] for name in ("slot", "length", "step", "position"))
        begin_step(inputs, runner._slots.tables, runner._slots.records, self._tokens, self._positions)
        runner.note(self._tokens, slots, lengths)
        logits = runner.forward(self._tokens, self._positions, runner.batch(slots, lengths), 0)
        runner.sample(logits, SampledRows(slots, lengths, steps, positions), self._result)
        if self._tells:
            self._best = best_scores(logits, self._result[RESULT["token"]])

    def run(self, plan: DecodePlan, spare_slot: int) -> tuple[Download, Download | None]:
        """Start the step and the copies of what was sampled, and of the best tokens where they are told."""
        rows = len(plan.slots)
        block = self._upload.next()
        block[:] = self._idle(spare_slot)
        columns = {"slot": plan.slots, "length": plan.lengths, "step": plan.steps, "position": plan.positions}
        for name, values in columns.items():
            block[STEP[name], :rows] = values
        if plan.calls:
            block[STEP["call"], :rows] = plan.calls
        for index, change in enumerate(plan.new_pages):
            block[_CHANGE, index] = change
        self._upload.send()
        self._replay()
        return Download(self._result), Download(self._best) if self._best is not None else None


def _bucket_sizes(max_rows: int) -> list[int]:
    """Return the batch sizes that get a graph, the largest being `max_rows`."""
    return [*(size for size in _BATCHES if size < max_rows), max_rows]


def _cache(
    network: PreTrainedModel, pages: int, page_size: int, kind: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Return each layer's keys and values, (pages, KV heads, page size, head size)."""
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (pages, heads, page_size, size)
    layers = range(config.num_hidden_layers)
    keys = [torch.zeros(shape, dtype=kind, device=network.device) for _ in layers]
    values = [torch.zeros(shape, dtype=kind, device=network.device) for _ in layers]
    return keys, values
