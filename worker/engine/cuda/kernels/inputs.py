"""A step's input: each row's last token and place, the page table's changes, and the tokens kept for penalties."""

import triton
import triton.language as tl
from torch import Tensor

from endmark.worker.engine.cuda.kernels.steering import take_call
from endmark.worker.engine.layout import SLOT, STEP

_SLOT_WIDTH, _LAST = tl.constexpr(SLOT.width), tl.constexpr(SLOT["last"])
_STEP_SLOT, _LENGTH, _CHANGED_SLOT, _CHANGED_INDEX, _CHANGED_PAGE = (
    tl.constexpr(STEP[name]) for name in ("slot", "length", "changed_slot", "changed_index", "changed_page")
)


@triton.jit(do_not_specialize=["rows"])
def _begin_step(inputs, rows, tables, table_width, records, tokens, positions_out):
    """One row: its new page into its table, its last token and position into the model's input."""
    row = tl.program_id(0)
    column = inputs + row
    slot = tl.load(column + _STEP_SLOT * rows).to(tl.int64)
    changed = tables + tl.load(column + _CHANGED_SLOT * rows).to(tl.int64) * table_width
    tl.store(changed + tl.load(column + _CHANGED_INDEX * rows), tl.load(column + _CHANGED_PAGE * rows))
    record = records + slot * _SLOT_WIDTH
    take_call(record, column, rows)
    tl.store(tokens + row, tl.load(record + _LAST).to(tl.int64))
    tl.store(positions_out + row, tl.load(column + _LENGTH * rows).to(tl.int64))


def begin_step(inputs: Tensor, tables: Tensor, records: Tensor, tokens: Tensor, positions: Tensor) -> None:
    """Make the model's input of a decode step.

    Args:
        inputs: (STEP.width, R) int32.
        tables: (S, W) int32.
        records: (S, SLOT.width) int32; the begin of an insertion that is called for is written.
        tokens: (R,) int64, written; `positions` likewise.
    """
    rows = inputs.shape[1]
    _begin_step[(rows,)](inputs, rows, tables, tables.shape[1], records, tokens, positions, num_warps=1)


@triton.jit(do_not_specialize=["count"])
def _note_tokens(tokens, slots, positions, count, tables, table_width, history, PAGE: tl.constexpr):
    """128 tokens."""
    index = tl.program_id(0) * 128 + tl.arange(0, 128)
    mask = index < count
    slot = tl.load(slots + index, mask=mask, other=0).to(tl.int64)
    position = tl.load(positions + index, mask=mask, other=0)
    page = tl.load(tables + slot * table_width + position // PAGE, mask=mask, other=0).to(tl.int64)
    token = tl.load(tokens + index, mask=mask, other=0).to(tl.int32)
    tl.store(history + page * PAGE + position % PAGE, token, mask=mask)


def note_tokens(tokens: Tensor, slots: Tensor, positions: Tensor, tables: Tensor, history: Tensor) -> None:
    """Keep a step's input tokens where their keys and values stand.

    Args:
        tokens: (T,) int64.
        slots: (T,) int32, of each token's row; its position in it in `positions`.
        tables: (S, W) int32.
        history: (pages, page size) int32, written.
    """
    count = len(tokens)
    _note_tokens[(triton.cdiv(count, 128),)](
        tokens, slots, positions, count, tables, tables.shape[1], history, PAGE=history.shape[1]
    )
