"""The fast device path: decode steps as captured graphs, prompts packed beside them, the host one step behind."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from endmark.worker.engine.cuda.attention import PAGED, DeviceBatch, empty_cache
from endmark.worker.engine.cuda.decode import DecodeInputs, DecodeStep, Kind, RecordedSteps, bucket_sizes
from endmark.worker.engine.cuda.fusion import Fused, fuse
from endmark.worker.engine.cuda.kernels.cache_write import copy_fronts
from endmark.worker.engine.cuda.kernels.gathered_attention import Gathered
from endmark.worker.engine.cuda.kernels.inputs import note_tokens
from endmark.worker.engine.cuda.kernels.prefill_attention import Tiles
from endmark.worker.engine.cuda.kernels.sampling import finish_step
from endmark.worker.engine.cuda.launched import Answered, Drawn, Launched, drawn_step
from endmark.worker.engine.cuda.prefill import Passes, PassInputs, Piece
from endmark.worker.engine.cuda.replay import Recorder
from endmark.worker.engine.cuda.rooms import Rooms, SampledRows, Steering
from endmark.worker.engine.cuda.slots import SlotState
from endmark.worker.engine.cuda.staging import Download
from endmark.worker.engine.cuda.tiles import room_for
from endmark.worker.engine.last_layer import narrow_last_layer
from endmark.worker.engine.layout import RESULT
from endmark.worker.engine.plan import StepPlan, StepResult, Ticket
from endmark.worker.engine.scores import asked_scores, best_scores


class CudaRunner:
    """Runs plans on one model; see `worker.engine.contract.Runner`. One thread owns it."""

    overlaps = True
    weight_tokens = 256  # a card multiplies some 250 times as many 16-bit numbers as it reads in a time

    def __init__(
        self,
        network: PreTrainedModel,
        eos_ids: Iterable[int],
        *,
        num_pages: int,
        page_size: int,
        max_rows: int,
        prefill_tokens: int,
        piece_tokens: int,
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
        self.prefill_tokens, self.piece_tokens, self.context = prefill_tokens, piece_tokens, context
        self.refill = max(1, max_rows // 16)
        self._network = network
        self._device = network.device
        network.config.get_text_config()._attn_implementation = PAGED
        self._fused = fused if fused is not None else fuse(network)
        kind = cache_type or network.dtype
        self._keys, self._values = empty_cache(network, num_pages + 1, page_size, kind)
        config = network.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        self._gathers = room_for(network.dtype, config.num_attention_heads, self._keys[0], window)
        ends = sorted(eos_ids)
        self._eos_ids = torch.tensor(ends, dtype=torch.int32, device=self._device)
        self._table = sentence_table.to(self._device) if sentence_table is not None else None
        width = min(-(-context // page_size), num_pages) + 1  # a context may be wider than the cache
        self._slots = SlotState(max_rows, width, ends, self._device, spare_page=num_pages)
        self._history = torch.zeros(num_pages + 1, page_size, dtype=torch.int32, device=self._device)
        self._rooms: Rooms | None = None
        self._passes = Passes(prefill_tokens, least=page_size)
        self._steps = RecordedSteps(bucket_sizes(max_rows), self._record)
        self._scores: Tensor | None = None  # (S, V), until they are drawn from by a graph of its own
        self._logprobs: dict[int, int] = {}  # of the slots whose rows ask for them
        self._recorder = Recorder(self._device)
        with torch.inference_mode():
            self._narrows = narrow_last_layer(network, self._trial)
            self._steps.record_all(Kind())

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Ticket:
        """Start the step; it runs behind those started before."""
        assert self._rooms is not None, "made with the first graph"
        if plan.prefill:
            self._slots.admit(plan.prefill)
        for row in plan.prefill:
            self._logprobs.pop(row.slot, None)
            if row.logprobs is not None:
                self._logprobs[row.slot] = row.logprobs
        self._rooms.uploads.send(plan.masks)
        rows = len(plan.slots)
        if plan.prefill:
            launched = self._mixed(plan, rows)
        else:
            asked = self._asked(plan.slots)
            step = self._steps.of(rows, Kind(bool(asked), bool(plan.decode.late)))
            step.run(plan.decode)
            launched = Launched(partial(drawn_step, step, asked))
        if not plan.decode.late:
            launched.draw()
        return Ticket(rows, launched)

    @torch.inference_mode()
    def draw(self, ticket: Ticket, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Draw the tokens of a step with late masks, which has been launched last."""
        assert self._rooms is not None, "made with the first graph"
        assert isinstance(ticket.payload, Launched)
        self._rooms.uploads.send(masks)
        ticket.payload.draw()

    def mask_memory(self, count: int) -> NDArray[np.int32]:
        """Return memory for masks that the device reads by itself; see `worker.engine.contract.MaskMemory`."""
        assert self._rooms is not None, "made with the first graph"
        return self._rooms.uploads.memory(count)

    def read(self, ticket: Ticket) -> StepResult:
        """Wait for the step and return what it sampled."""
        assert isinstance(ticket.payload, Launched)
        return ticket.payload.result(ticket.rows)

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

    def batch(
        self,
        slots: Tensor,
        positions: Tensor,
        tiles: Tiles | None = None,
        decoding: int = 0,
        gathered: Gathered | None = None,
    ) -> DeviceBatch:
        """Return a step's batch over the runner's cache; see `DeviceBatch`."""
        tables = self._slots.tables
        return DeviceBatch(self._keys, self._values, tables, slots, positions, tiles, decoding, gathered)

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

    def _asked(self, slots: Sequence[int]) -> dict[int, int]:
        """Return how many best tokens rows are told, by their index, of those that ask."""
        if not self._logprobs:
            return {}
        found = ((index, self._logprobs.get(slot)) for index, slot in enumerate(slots))
        return {index: count for index, count in found if count is not None}

    def _record(self, size: int, kind: Kind) -> DecodeStep:
        """Capture a decode step of so many rows."""

        def compute(inputs: DecodeInputs) -> Tensor:
            rows = inputs.rows
            self.note(inputs.tokens, rows.slots, rows.lengths)
            batch = self.batch(rows.slots, rows.lengths, decoding=size)
            return self.forward(inputs.tokens, inputs.positions64, batch, 0)

        def draw(logits: Tensor, inputs: DecodeInputs, result: Tensor) -> Tensor | None:
            self.sample(logits, inputs.rows, result)
            return best_scores(logits, result[RESULT["token"]]) if kind.tells else None

        scores = self._room_for_scores()[:size] if kind.late else None
        return DecodeStep(size, self._slots, self._recorder, compute, draw, scores)

    def _room_for_scores(self) -> Tensor:
        """Return where scores stand until they are drawn from, (S, V) of the model's type."""
        if self._scores is None:
            assert self._rooms is not None, "made with the first graph"
            shape = self.max_rows, self._rooms.scores.shape[1]
            self._scores = torch.empty(shape, dtype=self._network.dtype, device=self._device)
        return self._scores

    def _mixed(self, plan: StepPlan, rows: int) -> Launched:
        """Compute prompts or pieces of them beside the rows that run; `rows` of them are to be drawn."""
        pieces = [Piece(row, row.cached, row.end) for row in plan.prefill]
        scores: list[Answered] = []
        passes: list[tuple[Tensor, PassInputs, int]] = []

        def compute(group: list[Piece], done: int) -> int:
            running = DecodeInputs.sent(plan.decode, self._slots) if plan.decode.slots and not done else None
            inputs = PassInputs.of(group, running, self._device, self._gathers)
            whole = self._logits(inputs)
            if inputs.questions.asked:
                found = Download(asked_scores(whole, inputs.questions.asked).view(torch.int32))
                scores.append(Answered(done, inputs.sampled, inputs.questions, found))
            if inputs.sampled:
                passes.append((whole[: len(inputs.keep)], inputs, done))
            return inputs.sampled

        self._passes.run(pieces, compute)
        return Launched(partial(self._draw_passes, passes, rows), scores)

    def _draw_passes(self, passes: Iterable[tuple[Tensor, PassInputs, int]], rows: int) -> Drawn:
        """Draw the tokens of `rows` rows, from each pass's scores; with it stand the rows drawn before."""
        result = torch.empty(RESULT.width, rows, dtype=torch.int32, device=self._device)
        told: list[tuple[Mapping[int, int], Download]] = []
        for logits, inputs, done in passes:
            self.sample(logits, inputs.rows, result, done)
            if counts := self._asked(inputs.on_host):
                best = best_scores(logits, result[RESULT["token"], done : done + inputs.sampled])
                told.append(({done + index: count for index, count in counts.items()}, Download(best)))
        return Download(result), told

    def _logits(self, inputs: PassInputs) -> Tensor:
        """Run one forward pass; return the logits (R + O, V) of the rows' last tokens, then of others."""
        self.note(inputs.tokens, inputs.slots, inputs.positions)
        if inputs.copied is not None:
            copy_fronts(self._history.view(-1, 1, self.page_size, 1), inputs.copied)
        wanted = torch.cat([inputs.keep, inputs.others])
        batch = self.batch(inputs.slots, inputs.positions, inputs.tiles, inputs.decoding, inputs.gathered)
        batch.copied = inputs.copied
        return self._scores_of(wanted, inputs.tokens, inputs.positions64, batch, narrow=self._narrows)

    def _scores_of(
        self, wanted: Tensor, tokens: Tensor, positions: Tensor, batch: DeviceBatch, *, narrow: bool
    ) -> Tensor:
        """Return the logits (R, V) of what is wanted, with the last layer for that alone or for all."""
        if not narrow:
            return self.forward(tokens, positions, batch, wanted)
        batch.wanted = wanted
        return self.forward(tokens, positions, batch, 0)

    def _trial(self, narrow: bool) -> Tensor:
        """Return the scores of two tokens of a row of five, each its place, which stands where no row does."""
        places = torch.arange(5, device=self._device)
        slots = torch.full_like(places, self._slots.spare, dtype=torch.int32)
        tile = (self._slots.spare, 0, 5, 0)
        tiles = Tiles(*(torch.tensor([number], dtype=torch.int32, device=self._device) for number in tile))
        batch = self.batch(slots, places.int(), tiles)
        return self._scores_of(places[[2, 4]], places, places, batch, narrow=narrow)
