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

from endmark.worker.vllm.block import Block, unpacked
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
        self._block = _block(said)
        self._drawing = _drawing(said, self._block, int(vllm_config.model_config.max_model_len), device)
        self._device = device
        self._returns = Returns(self._block, device)
        self._following = Following(self._block, MoveDirectionality.SWAP)
        self._partial: Callable[[int], NDArray[np.bool_]] | None = None
        self._computed: Callable[[], NDArray[np.int32]] | None = None
        self._speaks = True
        self._news = set[str]()  # parts of the block that were written since they were handed out

    def bind(
        self,
        partial: Callable[[int], NDArray[np.bool_]],
        computed: Callable[[], NDArray[np.int32]],
        *,
        speaks: bool,
    ) -> None:
        """Learn of the model's runner how far rows are computed.

        Args:
            partial: returns (R,) bool for so many rows: computed in part only in this step, they draw nothing.
            computed: returns the tokens of each place's row that have keys and values, (at least R,).
            speaks: whether this one brings results back: one of those that draw the same.
        """
        self._partial, self._computed, self._speaks = partial, computed, speaks

    def is_argmax_invariant(self) -> bool:
        """Whether the best token stays the best."""
        return False

    def update_state(self, batch_update: Any) -> None:  # noqa: ANN401
        """Follow vLLM's batch."""
        if batch_update is None:
            return
        assert self._computed is not None, "bound before the first row"
        fresh, again = self._following.update(batch_update, self._computed())
        if fresh:
            self._drawing.admit([(item.row, [*item.prompt, *item.answer]) for item in fresh])
        if self._speaks:
            self._block.resumed[0] += again

    def apply(self, logits: Tensor) -> Tensor:
        """Draw, and make each row's token the best of its scores, (R, V) fp32."""
        engine = ENGINES.get(str(self._block.path))
        if engine is not None and self._following.has_masks:
            engine.before_draw()
        assert self._partial is not None, "bound before the first step"
        batch = self._following.batch(self._partial(len(logits)))
        drawn = self._drawing.draw(logits, batch)
        if self._speaks:
            there = batch.slots < len(self._block.results)
            self._block.launched[batch.slots[there]] = np.stack([batch.epochs[there], batch.steps[there] + 1], 1)
            self._returns.tell(logits, drawn, batch)
            self._news |= {"results", "launched", "resumed"}
            self._news |= {"told"} if batch.logprobs else set()
            self._news |= {"asked"} if batch.asked else set()
        self._drawing.leave(logits, drawn, batch, self._returns.entries)
        if self._speaks:
            self._returns.send()
        return logits

    def take_in(self, calls: NDArray[np.int32] | None, slots: NDArray[np.int64], masks: NDArray[np.int32]) -> None:
        """Learn what the next draws are to know, of an engine on another host; see `Exchange.give`."""
        if calls is not None:
            self._block.calls[:] = calls
        self._block.masks[slots] = masks

    def hand_out(self) -> dict[str, NDArray[Any]]:
        """Return those parts of the block that were written since the last time, by their names."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # copies into the block may be under way
        news, self._news = self._news, set()
        return {name: np.array(getattr(self._block, name)) for name in news}


def _block(said: dict[str, Any]) -> Block:
    """Return the block of the engine, or one of this processor's own where the engine is on another host."""
    if said["block"] is not None:
        return Block(Path(said["block"]), said["slots"], said["vocabulary"])
    block = Block.make(said["slots"], said["vocabulary"])
    block.unlink()
    block.sentences[:] = unpacked(said["sentences"], block.sentences.shape)
    return block


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
    _draw_of(worker).bind(
        lambda count: runner.discard_request_mask.np[:count],
        lambda: runner.input_batch.num_computed_tokens_cpu,
        speaks=worker.rank == first_of_last_stage,
    )
    return int(getattr(runner, "model_memory_usage", 0))


def take_in(worker: Any, *given: Any) -> None:  # noqa: ANN401
    """Give the processor of one of vLLM's workers what its next draws are to know, called there."""
    _draw_of(worker).take_in(*given)


def hand_out(worker: Any) -> dict[str, NDArray[Any]]:  # noqa: ANN401
    """Return what the processor of one of vLLM's workers has to tell since the last time, called there."""
    return _draw_of(worker).hand_out()


def _draw_of(worker: Any) -> Draw:  # noqa: ANN401
    """Return the processor of one of vLLM's workers."""
    every = worker.model_runner.input_batch.logitsprocs.all
    return next(item for item in every if isinstance(item, Draw))
