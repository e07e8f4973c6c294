"""The processor inside vLLM that takes each row's draw itself and leaves one token; imported by vLLM alone.

It changes which token is the best, so vLLM has it called before its own choice, which is greedy for all rows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from endmark.worker.vllm.block import Block
from endmark.worker.vllm.drawing import Drawing
from endmark.worker.vllm.following import KEY, Following
from endmark.worker.vllm.hooks import ENGINES
from endmark.worker.vllm.host_drawing import HostDrawing
from endmark.worker.vllm.returns import Returns


class Draw(LogitsProcessor):  # type: ignore[misc]
    """See the module."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ANN401
        """Make room for all rows, before vLLM measures what is left.

        Args:
            vllm_config: whose `additional_config` holds what `worker.vllm.loading` has put there.
            device: of the logits.
            is_pin_memory: of no use here.
        """
        del is_pin_memory
        said = vllm_config.additional_config[KEY]
        device = torch.device(device)
        self._block = Block(Path(said["block"]), said["slots"], said["vocabulary"])
        self._drawing = _drawing(said, self._block, int(vllm_config.model_config.max_model_len), device)
        self._returns = Returns(self._block, device)
        self._following = Following(self._block, MoveDirectionality.SWAP)
        self._partial: Callable[[int], NDArray[np.bool_]] | None = None
        self._speaks = True

    def bind(self, partial: Callable[[int], NDArray[np.bool_]], *, speaks: bool) -> None:
        """Learn of the model's runner which rows of a step are computed in part only, and draw nothing.

        Args:
            partial: returns (R,) bool for so many rows.
            speaks: whether this one brings results back: one of those that draw the same.
        """
        self._partial, self._speaks = partial, speaks

    def is_argmax_invariant(self) -> bool:
        """Whether the best token stays the best."""
        return False

    def update_state(self, batch_update: Any) -> None:  # noqa: ANN401
        """Follow vLLM's batch."""
        if batch_update is None:
            return
        fresh, again = self._following.update(batch_update)
        if fresh:
            self._drawing.admit([(item.row, [*item.prompt, *item.answer]) for item in fresh])
        if self._speaks:
            self._block.resumed[0] += again

    def apply(self, logits: Tensor) -> Tensor:
        """Draw, and make each row's token the best of its scores, (R, V) fp32."""
        engine = ENGINES.get(str(self._block.path))
        if engine is not None:
            engine.before_draw()
        assert self._partial is not None, "bound before the first step"
        batch = self._following.batch(self._partial(len(logits)))
        drawn = self._drawing.draw(logits, batch)
        if self._speaks:
            there = batch.slots < len(self._block.results)
            self._block.launched[batch.slots[there]] = np.stack([batch.epochs[there], batch.steps[there] + 1], 1)
            self._returns.tell(logits, drawn, batch)
        self._drawing.leave(logits, drawn, batch, self._returns.entries)
        if self._speaks:
            self._returns.send()
        return logits


def _drawing(said: dict[str, Any], block: Block, context: int, device: torch.device) -> Drawing:
    """Return the way of drawing that suits the device, for rows of at most `context` tokens."""
    slots, eos_ids, table = said["slots"], said["eos_ids"], torch.from_numpy(block.sentences).clone()
    if device.type != "cuda":
        return HostDrawing(slots, eos_ids, table, device)
    from endmark.worker.vllm.device_drawing import DeviceDrawing  # needs Triton, as CUDA builds of torch have it

    return DeviceDrawing(slots, context, said["vocabulary"], eos_ids, table, device)


def bind(worker: Any) -> int:  # noqa: ANN401
    """Bind the processor of one of vLLM's workers, called there; return the bytes that its weights take."""
    runner, parallel = worker.model_runner, worker.vllm_config.parallel_config
    first_of_last_stage = parallel.tensor_parallel_size * (parallel.pipeline_parallel_size - 1)
    for item in runner.input_batch.logitsprocs.all:
        if isinstance(item, Draw):
            item.bind(
                lambda count: runner.discard_request_mask.np[:count], speaks=worker.rank == first_of_last_stage
            )
    return int(getattr(runner, "model_memory_usage", 0))
