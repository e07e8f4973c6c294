"""The end of a draw on a card, one kernel: results go where the engine reads them, one token is left a row."""

import triton
import triton.language as tl
from torch import Tensor

from endmark.worker.engine.layout import RESULT, STEP
from endmark.worker.vllm.block import ENTRY, RING

_RING, _WIDTH = tl.constexpr(RING), tl.constexpr(ENTRY.width)
_SLOT, _STEP = tl.constexpr(STEP["slot"]), tl.constexpr(STEP["step"])
_EPOCH = tl.constexpr(STEP.width)  # behind what a step of our own engine is told
_TOKEN, _PROB, _RANK, _FLAGS = (tl.constexpr(RESULT[name]) for name in ("token", "eos_prob", "rank", "flags"))
_TO_TOKEN, _TO_PROB, _TO_RANK, _TO_FLAGS, _TO_EPOCH, _TO_STEP, _TO_SUM = (
    tl.constexpr(ENTRY[name]) for name in ("token", "eos_prob", "rank", "flags", "epoch", "step", "sum")
)


@triton.jit(do_not_specialize=["rows", "columns"])
def _leave(logits, stride, inputs, rows, result, columns, entries):
    """One row."""
    row = tl.program_id(0)
    slot = tl.load(inputs + _SLOT * rows + row).to(tl.int64)
    step, epoch = tl.load(inputs + _STEP * rows + row), tl.load(inputs + _EPOCH * rows + row)
    token, prob = tl.load(result + _TOKEN * columns + row), tl.load(result + _PROB * columns + row)
    rank, flags = tl.load(result + _RANK * columns + row), tl.load(result + _FLAGS * columns + row)
    entry = entries + (slot * _RING + step % _RING) * _WIDTH
    tl.store(entry + _TO_TOKEN, token)
    tl.store(entry + _TO_PROB, prob)
    tl.store(entry + _TO_RANK, rank)
    tl.store(entry + _TO_FLAGS, flags)
    tl.store(entry + _TO_EPOCH, epoch)
    tl.store(entry + _TO_STEP, step)
    tl.store(entry + _TO_SUM, token + prob + rank + flags + epoch + step)
    tl.store(logits + row.to(tl.int64) * stride + token, float("inf"))


def leave_step(logits: Tensor, inputs: Tensor, result: Tensor, entries: Tensor) -> None:
    """Write each row's result into its place, and make its token the best of its scores.

    Args:
        logits: (R, V) fp32, written.
        inputs: (STEP.width + 1, at least R) int32: what the step was told, and the rows' epochs.
        result: (RESULT.width, R) int32.
        entries: (slots + 1, RING, ENTRY.width) int32, written.
    """
    rows = len(logits)
    _leave[(rows,)](
        logits, logits.stride(0), inputs, inputs.shape[1], result, result.shape[1], entries, num_warps=1
    )
