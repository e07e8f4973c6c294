"""Steps with prompts as captured graphs of a few sizes: all layers but what the last one does behind its keys.

A host that launches such a step kernel by kernel takes more than a millisecond a layer, longer than a card takes
for 2,048 tokens in fp8. So a pass is padded to one of few sizes, and what is in it stands in `prompt_tables`.
A capture stops the card for longer than a launch: a size is captured only once the card has waited for its host.
"""

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from endmark.worker.engine.cuda.attention import DeviceBatch
from endmark.worker.engine.cuda.kernels.gathered_attention import CHUNK, GatherRoom
from endmark.worker.engine.cuda.prefill import PassInputs
from endmark.worker.engine.cuda.prompt_tables import Front, Idle, PromptStep, Size, fours
from endmark.worker.engine.cuda.replay import Recorder
from endmark.worker.engine.cuda.two_parts import part_layers
from endmark.worker.engine.last_layer import KeysWritten

if TYPE_CHECKING:
    from endmark.worker.engine.cuda.runner import CudaRunner

log = logging.getLogger(__name__)

_RUNNING = (0, 64, 256, 1024)  # rows at the front, idle ones included
_BEFORE_RECORDING = 2  # passes of a size for whose launch the card had to wait
_MOST = 48  # passes that are captured
_MOST_SIZES = 192  # that have tables of their own, up to a quarter of a megabyte each


class PassEnds:
    """Tells whether the card waits for its host: it has then done a pass before the next one is launched."""

    def __init__(self, device: torch.device) -> None:
        self._end = torch.cuda.Event() if device.type == "cuda" else None

    def mark(self) -> None:
        """Note that a pass has been launched."""
        if self._end is not None:
            self._end.record()

    def reached(self) -> bool:
        """Whether the pass that was marked last is done; a CPU does each at once."""
        return self._end is None or self._end.query()


class PromptSteps:
    """Passes of all sizes, in two parts; their graphs share memory: the largest, captured first, makes room.

    Attributes:
        idle: by which passes are to be padded.
    """

    def __init__(
        self, network: PreTrainedModel, runner: "CudaRunner", recorder: Recorder, idle: Idle, rows: int, room: int
    ) -> None:
        """Make room.

        Args:
            network: whose last layer narrows.
            runner: that runs it.
            recorder: of the graphs.
            idle: as the attribute.
            rows: that may run at once.
            room: tokens that can be gathered; 0 where none are.
        """
        self.idle = idle
        self._runner, self._recorder = runner, recorder
        most = fours(rows + 1)  # a single idle token attends as running rows do
        self._running = [*(count for count in _RUNNING if count < most), most]
        self._gather_room = GatherRoom(room // (4 * CHUNK) * 4 * CHUNK)
        self._steps: dict[Size, PromptStep] = {}
        self._records = _MOST  # that are left
        config, device = network.config.get_text_config(), network.device
        shape = 1, idle.sizes[-1], config.hidden_size
        self._room = torch.empty(shape, dtype=network.dtype, device=device)
        self._none = torch.empty(0, dtype=torch.int64, device=device)
        self._ends = PassEnds(device)

    @classmethod
    def of(
        cls, network: PreTrainedModel, runner: "CudaRunner", recorder: Recorder, idle: Idle, rows: int, room: int
    ) -> "PromptSteps | None":
        """Return them with the largest captured; None where the network cannot be run in two parts."""
        steps = cls(network, runner, recorder, idle, rows, room)
        if not part_layers(network, steps._trial):
            return None
        if recorder.captures:
            tokens = idle.sizes[-1]
            step = steps._step(Size(tokens, min(steps._running[-1], tokens), steps._gather_room.tokens > 0))
            steps._record(step, has_run=False)
        return steps

    def first(self, inputs: PassInputs) -> bool:
        """Run a pass as far as the last layer's keys, if it is of one of the sizes; return whether it is."""
        tokens = len(inputs.tokens)
        if tokens not in self.idle.sizes:
            return False
        running = next(count for count in self._running if count >= inputs.decoding)
        size = Size.of(inputs, running)
        if size not in self._steps and len(self._steps) >= _MOST_SIZES:
            return False
        step = self._step(size)
        if not step.takes(inputs):
            return False
        step.fill(inputs)
        if step.replay is None and step.waited >= _BEFORE_RECORDING and self._records:
            self._record(step, has_run=True)
        if step.replay is not None:
            step.replay()
        else:
            self._first(step.front)
            step.waited += self._ends.reached()
        self._ends.mark()
        return True

    def second(self, inputs: PassInputs, wanted: Tensor) -> Tensor:
        """Return the logits (R, V) of the wanted tokens (R,) of the pass whose first part has just been run."""
        batch = self._runner.batch(inputs.slots[wanted], inputs.positions[wanted], decoding=len(wanted))
        return self._rest(inputs.tokens[wanted], inputs.positions64[wanted], batch, wanted)

    def _step(self, size: Size) -> PromptStep:
        """Return the step of a size."""
        if size not in self._steps:
            self._steps[size] = PromptStep(size, self.idle.slot, self._gather_room, self._room.device)
        return self._steps[size]

    def _record(self, step: PromptStep, *, has_run: bool) -> None:
        """Capture a step, if there is memory for it; one that has not run yet is run before."""
        try:
            if not has_run:
                self._first(step.front)
            step.replay = self._recorder.capture(lambda: self._first(step.front))
            self._records -= 1
        except torch.OutOfMemoryError:
            log.warning("no room to capture more steps with prompts: others are launched kernel by kernel")
            self._records = 0

    def _first(self, front: Front) -> None:
        """Run a first part."""
        running = front.running
        batch = self._runner.batch(front.slots, front.positions, front.tiles, len(running[0]), front.gathered)
        batch.running, batch.copied = running, front.copied
        self._keep(front.tokens, front.positions64, batch)

    def _keep(self, tokens: Tensor, positions: Tensor, batch: DeviceBatch) -> None:
        """Run tokens as far as the last layer's keys, and keep what that layer was given."""
        batch.wanted, batch.room = self._none, self._room[:, : len(tokens)]
        with suppress(KeysWritten):
            self._runner.forward(tokens, positions, batch, 0)

    def _rest(self, tokens: Tensor, positions: Tensor, batch: DeviceBatch, wanted: Tensor) -> Tensor:
        """Return the scores (R, V) of tokens, of which what the last layer is given was kept at `wanted`."""
        batch.kept = self._room.index_select(1, wanted)
        return self._runner.forward(tokens, positions, batch, 0)

    def _trial(self, parts: bool) -> Tensor:
        """Return the scores of two tokens of a row of five."""
        tokens, batch = self._runner.probe()
        wanted = tokens[[2, 4]]
        if not parts:
            batch.wanted = wanted
            return self._runner.forward(tokens, tokens, batch, 0)
        slots, positions = batch.slots[wanted], batch.positions[wanted]
        self._keep(tokens, tokens, batch)
        return self._rest(wanted, wanted, self._runner.batch(slots, positions, decoding=2), wanted)
