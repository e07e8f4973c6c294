"""The end of a step in one launch: strategies, sampling, EOS statistics and the next input.

One program a row. A greedy row reads its scores once, a sampled one once more, and as often as `drawing` says
where it has top-k or top-p.
"""

import triton
import triton.language as tl
from torch import Tensor

from endmark.jobs.landing import LANDED
from endmark.worker.engine.cuda.kernels.drawing import draw, ordered, published_pass, raised_eos
from endmark.worker.engine.layout import RESULT, SLOT, STEP
from endmark.worker.engine.plan import FORCED, HIDDEN, NATURAL

_LANDED, _NATURAL, _FORCED, _HIDDEN = (tl.constexpr(value) for value in (LANDED, NATURAL, FORCED, HIDDEN))
_LARGEST_GROWTH = tl.constexpr(1e30)
_SLOT_WIDTH = tl.constexpr(SLOT.width)
_LAST, _LANDING, _KEY, _SHAPED = (tl.constexpr(SLOT[name]) for name in ("last", "landing", "key", "shaped"))
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P = (
    tl.constexpr(SLOT[name]) for name in ("temperature", "top_k", "top_p", "min_p")
)
_START, _FULL, _POWER, _MARGIN, _AFTER_SENTENCE, _FACTOR, _RATIO, _FORCE_AT = (
    tl.constexpr(SLOT[name])
    for name in ("start", "full", "power", "margin", "after_sentence", "factor", "ratio", "force_at")
)
_TOKEN, _PROB, _RANK, _FLAGS = (tl.constexpr(RESULT[name]) for name in ("token", "eos_prob", "rank", "flags"))
_STEP_SLOT, _LENGTH, _CHANGED_SLOT, _CHANGED_INDEX, _CHANGED_PAGE = (
    tl.constexpr(STEP[name]) for name in ("slot", "length", "changed_slot", "changed_index", "changed_page")
)


@triton.jit
def _real(record, offset: tl.constexpr):
    """Return an fp32 number of a record."""
    return tl.load(record + offset).to(tl.float32, bitcast=True)


@triton.jit
def _is_eos(token, ids_ptr, E: tl.constexpr):
    """Whether a token is one of the EOS ids."""
    found = token == tl.load(ids_ptr)
    for index in tl.static_range(1, E):
        found = found | (token == tl.load(ids_ptr + index))
    return found


@triton.jit
def _best_eos(row_ptr, V, ids_ptr, best_other, growth, ramp, margin, published, E: tl.constexpr):
    """Return the best score of an EOS id after the strategies, and which id has it."""
    best, best_token = -float("inf"), V
    for index in tl.static_range(E):
        token = tl.load(ids_ptr + index)
        score = raised_eos(tl.load(row_ptr + token).to(tl.float32), best_other, growth, ramp, margin, published)
        first = (score > best) | ((score == best) & (token < best_token))
        best_token = tl.where(first, token, best_token)
        best = tl.maximum(best, score)
    return best, best_token


@triton.jit
def _scan(row_ptr, V, ids_ptr, eos_best, E: tl.constexpr, BLOCK: tl.constexpr):
    """Read a row's scores once.

    Returns:
        The highest, the sum of exp(score - highest), how many are above the best EOS, the best score that is no
        EOS, and its token.
    """
    lanes = tl.arange(0, BLOCK)
    top = tl.full([BLOCK], -1e38, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    rank = tl.zeros([BLOCK], tl.int32)
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    chosen = tl.full([BLOCK], 0, tl.int32)
    for begin in range(0, V, BLOCK):
        offs = begin + lanes
        x = tl.load(row_ptr + offs, mask=offs < V, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, x)
        total = total * tl.exp(top - higher) + tl.exp(x - higher)
        top = higher
        rank += (x > eos_best).to(tl.int32)
        others = tl.where(_is_eos(offs, ids_ptr, E), -float("inf"), x)
        better = others > best
        best = tl.where(better, others, best)
        chosen = tl.where(better, offs, chosen)
    highest = tl.max(top, 0)
    mass = tl.sum(total * tl.exp(top - highest), 0)
    best_raw = tl.max(best, 0)
    return highest, mass, tl.sum(rank, 0), best_raw, tl.min(tl.where(best == best_raw, chosen, V), 0)


@triton.jit
def _eos_mass(row_ptr, ids_ptr, highest, E: tl.constexpr):
    """Return the sum of exp(score - highest) over the EOS ids."""
    mass = 0.0
    for index in tl.static_range(E):
        mass += tl.exp(tl.load(row_ptr + tl.load(ids_ptr + index)).to(tl.float32) - highest)
    return mass


@triton.jit
def _strength(record, n, after_sentence, state):
    """Return by what the strategies raise EOS at this step: growth and ramp."""
    start = _real(record, _START)
    span = _real(record, _FULL) - start
    power = _real(record, _POWER)
    factor = _real(record, _FACTOR)
    growth = tl.minimum(tl.exp2(tl.log2(factor) * tl.maximum(n - start, 0.0)), _LARGEST_GROWTH)
    rise = tl.minimum(tl.maximum((n - start) / tl.maximum(span, 1e-9), 0.0), 1.0)
    ramp = tl.where(rise > 0, tl.exp2(tl.log2(tl.where(rise > 0, rise, 1.0)) * power), 0.0)
    return growth, tl.where((span > 0) & ((state >= _LANDED) | (after_sentence == 0.0)), ramp, 0.0)


@triton.jit(do_not_specialize=["columns", "first_column"])
def _finish_step(
    logits, stride, V, ids_ptr, slots, steps, positions, records, sentence_table, result, columns,
    first_column, E: tl.constexpr, BLOCK: tl.constexpr, SENTENCES: tl.constexpr,
):  # fmt: skip
    """One row."""
    row = tl.program_id(0)
    row_ptr = logits + row.to(tl.int64) * stride
    record = records + tl.load(slots + row).to(tl.int64) * _SLOT_WIDTH
    n = tl.load(steps + row).to(tl.float32)
    margin = _real(record, _MARGIN)
    after_sentence = _real(record, _AFTER_SENTENCE)
    ratio = _real(record, _RATIO)
    forced = _real(record, _FORCE_AT) == n
    temperature = _real(record, _TEMPERATURE)
    shaped = tl.load(record + _SHAPED) != 0
    published = ratio == ratio
    state = tl.load(record + _LANDING)

    eos_raw, eos_first = _best_eos(row_ptr, V, ids_ptr, 0.0, 1.0, 0.0, 0.0, False, E)
    highest, mass, rank, best_raw, other_token = _scan(row_ptr, V, ids_ptr, eos_raw, E, BLOCK)
    eos_mass = _eos_mass(row_ptr, ids_ptr, highest, E)
    growth, ramp = _strength(record, n, after_sentence, state)
    # The published arithmetic keeps the order of scores, so the best other token is the same after it.
    best_other = tl.where(published, published_pass(published_pass(best_raw, ratio), 1.0), best_raw)
    eos_score, eos_token = _best_eos(row_ptr, V, ids_ptr, best_other, growth, ramp, margin, published, E)
    other_score = tl.where(forced, -float("inf"), best_other)
    eos_wins = (eos_score > other_score) | ((eos_score == other_score) & (eos_token < other_token))
    token = tl.where(eos_wins, eos_token, other_token)
    natural = (eos_raw > best_raw) | ((eos_raw == best_raw) & (eos_first < other_token))
    hidden = False
    if temperature > 0:
        top_p = _real(record, _TOP_P)
        top_k = tl.load(record + _TOP_K)
        min_p = _real(record, _MIN_P)
        key = tl.load(record + _KEY).to(tl.uint32, bitcast=True)
        position = tl.load(positions + row)
        peak = tl.math.div_rn(tl.maximum(eos_score, other_score), temperature)
        token, floor = draw(
            row_ptr, V, ids_ptr, temperature, top_k, top_p, min_p, key, position, ratio, published, forced,
            best_other, growth, ramp, margin, peak, E, BLOCK,
        )  # fmt: skip
        hidden = ordered(tl.math.div_rn(eos_score, temperature)) < floor
        if shaped & _is_eos(token, ids_ptr, E):
            without, floor = draw(
                row_ptr, V, ids_ptr, temperature, top_k, top_p, min_p, key, position, ratio, published & False,
                forced & False, best_raw, 1.0, 0.0, 0.0, tl.math.div_rn(highest, temperature), E, BLOCK,
            )  # fmt: skip
            natural = _is_eos(without, ids_ptr, E)

    by_strategy = tl.where(natural, _NATURAL, tl.where(forced, _FORCED, 0))
    flags = tl.where(shaped, tl.where(_is_eos(token, ids_ptr, E), by_strategy, 0), _NATURAL)
    tl.store(record + _LAST, token)
    if SENTENCES:
        if after_sentence > 0:
            tl.store(record + _LANDING, tl.load(sentence_table + state.to(tl.int64) * V + token).to(tl.int32))
    out = result + first_column + row
    tl.store(out + _TOKEN * columns, token)
    tl.store(out + _PROB * columns, (eos_mass / mass).to(tl.int32, bitcast=True))
    tl.store(out + _RANK * columns, rank)
    tl.store(out + _FLAGS * columns, flags + tl.where(hidden, _HIDDEN, 0))


def finish_step(
    logits: Tensor,
    eos_ids: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    records: Tensor,
    sentence_table: Tensor | None,
    result: Tensor,
    first_column: int = 0,
) -> None:
    """Sample the next token of each row and note what the verdict needs.

    Args:
        logits: (R, V) raw, of the model's type, rows contiguous.
        eos_ids: (E,) int32.
        rows: slots, steps and positions of the plan, (R,) int32 each.
        records: (S, SLOT.width) int32, by slot; last token and state of landing spots are written.
        sentence_table: (STATES, V) uint8.
        result: (RESULT.width, C) int32, written from `first_column` on. The probability is NaN where scores are
            no numbers, and the token one that the model has.
    """
    slots, steps, positions = rows
    vocabulary = logits.shape[1]
    _finish_step[(len(logits),)](
        logits, logits.stride(0), vocabulary, eos_ids, slots, steps, positions, records,
        sentence_table if sentence_table is not None else records, result, result.shape[1], first_column,
        E=len(eos_ids), BLOCK=min(4096, triton.next_power_of_2(vocabulary)), SENTENCES=sentence_table is not None,
        num_warps=8,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _begin_step(inputs, rows, tables, table_width, records, tokens, positions_out):
    """One row: its new page into its table, its last token and position into the model's input."""
    row = tl.program_id(0)
    column = inputs + row
    slot = tl.load(column + _STEP_SLOT * rows).to(tl.int64)
    changed = tables + tl.load(column + _CHANGED_SLOT * rows).to(tl.int64) * table_width
    tl.store(changed + tl.load(column + _CHANGED_INDEX * rows), tl.load(column + _CHANGED_PAGE * rows))
    tl.store(tokens + row, tl.load(records + slot * _SLOT_WIDTH + _LAST).to(tl.int64))
    tl.store(positions_out + row, tl.load(column + _LENGTH * rows).to(tl.int64))


def begin_step(inputs: Tensor, tables: Tensor, records: Tensor, tokens: Tensor, positions: Tensor) -> None:
    """Make the model's input of a decode step.

    Args:
        inputs: (STEP.width, R) int32.
        tables: (S, W) int32.
        records: (S, SLOT.width) int32.
        tokens: (R,) int64, written; `positions` likewise.
    """
    rows = inputs.shape[1]
    _begin_step[(rows,)](inputs, rows, tables, tables.shape[1], records, tokens, positions, num_warps=1)
