"""The end of a step in one launch: strategies, sampling, EOS statistics and the next input.

One program a row. A greedy row reads its scores once, a sampled one once more, and as often as `drawing` says
where it has top-k or top-p.
"""

import triton
import triton.language as tl
from torch import Tensor

from endmark.jobs.landing import LANDED
from endmark.worker.engine.cuda.kernels.drawing import draw, ordered, published_pass, raised_eos
from endmark.worker.engine.plan import FORCED, HIDDEN, NATURAL

_LANDED, _NATURAL, _FORCED, _HIDDEN = (tl.constexpr(value) for value in (LANDED, NATURAL, FORCED, HIDDEN))
_LARGEST_GROWTH = tl.constexpr(1e30)


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
def _strength(numbers, slot, n, after_sentence, state):
    """Return by what the strategies raise EOS at this step: growth and ramp."""
    start = tl.load(numbers + slot * 8 + 0)
    span = tl.load(numbers + slot * 8 + 1) - start
    power = tl.load(numbers + slot * 8 + 2)
    factor = tl.load(numbers + slot * 8 + 5)
    growth = tl.minimum(tl.exp2(tl.log2(factor) * tl.maximum(n - start, 0.0)), _LARGEST_GROWTH)
    rise = tl.minimum(tl.maximum((n - start) / tl.maximum(span, 1e-9), 0.0), 1.0)
    ramp = tl.where(rise > 0, tl.exp2(tl.log2(tl.where(rise > 0, rise, 1.0)) * power), 0.0)
    return growth, tl.where((span > 0) & ((state >= _LANDED) | (after_sentence == 0.0)), ramp, 0.0)


@triton.jit(do_not_specialize=["columns", "first_column"])
def _finish_step(
    logits, stride, V, ids_ptr, slots, steps, positions, numbers, floats, draws,
    last, sentence, sentence_table, result, columns, first_column,
    E: tl.constexpr, BLOCK: tl.constexpr, SENTENCES: tl.constexpr,
):  # fmt: skip
    """One row."""
    row = tl.program_id(0)
    row_ptr = logits + row.to(tl.int64) * stride
    slot = tl.load(slots + row).to(tl.int64)
    n = tl.load(steps + row).to(tl.float32)
    margin = tl.load(numbers + slot * 8 + 3)
    after_sentence = tl.load(numbers + slot * 8 + 4)
    ratio = tl.load(numbers + slot * 8 + 6)
    forced = tl.load(numbers + slot * 8 + 7) == n
    temperature = tl.load(floats + slot * 2)
    shaped = tl.load(draws + slot * 3 + 2) != 0
    published = ratio == ratio
    state = tl.load(sentence + slot)

    eos_raw, eos_first = _best_eos(row_ptr, V, ids_ptr, 0.0, 1.0, 0.0, 0.0, False, E)
    highest, mass, rank, best_raw, other_token = _scan(row_ptr, V, ids_ptr, eos_raw, E, BLOCK)
    eos_mass = _eos_mass(row_ptr, ids_ptr, highest, E)
    growth, ramp = _strength(numbers, slot, n, after_sentence, state)
    # The published arithmetic keeps the order of scores, so the best other token is the same after it.
    best_other = tl.where(published, published_pass(published_pass(best_raw, ratio), 1.0), best_raw)
    eos_score, eos_token = _best_eos(row_ptr, V, ids_ptr, best_other, growth, ramp, margin, published, E)
    other_score = tl.where(forced, -float("inf"), best_other)
    eos_wins = (eos_score > other_score) | ((eos_score == other_score) & (eos_token < other_token))
    token = tl.where(eos_wins, eos_token, other_token)
    natural = (eos_raw > best_raw) | ((eos_raw == best_raw) & (eos_first < other_token))
    hidden = False
    if temperature > 0:
        top_p = tl.load(floats + slot * 2 + 1)
        top_k = tl.load(draws + slot * 3)
        key = tl.load(draws + slot * 3 + 1).to(tl.uint32, bitcast=True)
        position = tl.load(positions + row)
        peak = tl.math.div_rn(tl.maximum(eos_score, other_score), temperature)
        token, floor = draw(
            row_ptr, V, ids_ptr, temperature, top_k, top_p, key, position, ratio, published, forced,
            best_other, growth, ramp, margin, peak, E, BLOCK,
        )  # fmt: skip
        hidden = ordered(tl.math.div_rn(eos_score, temperature)) < floor
        if shaped & _is_eos(token, ids_ptr, E):
            without, floor = draw(
                row_ptr, V, ids_ptr, temperature, top_k, top_p, key, position, ratio, published & False,
                forced & False, best_raw, 1.0, 0.0, 0.0, tl.math.div_rn(highest, temperature), E, BLOCK,
            )  # fmt: skip
            natural = _is_eos(without, ids_ptr, E)

    by_strategy = tl.where(natural, _NATURAL, tl.where(forced, _FORCED, 0))
    flags = tl.where(shaped, tl.where(_is_eos(token, ids_ptr, E), by_strategy, 0), _NATURAL)
    tl.store(last + slot, token)
    if SENTENCES:
        if after_sentence > 0:
            tl.store(sentence + slot, tl.load(sentence_table + state.to(tl.int64) * V + token).to(tl.int32))
    out = result + first_column + row
    tl.store(out, token)
    tl.store(out + columns, (eos_mass / mass).to(tl.int32, bitcast=True))
    tl.store(out + 2 * columns, rank)
    tl.store(out + 3 * columns, flags + tl.where(hidden, _HIDDEN, 0))


def finish_step(
    logits: Tensor,
    eos_ids: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    state: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    sentence_table: Tensor | None,
    result: Tensor,
    first_column: int = 0,
) -> None:
    """Sample the next token of each row and note what the verdict needs.

    Args:
        logits: (R, V) raw, of the model's type, rows contiguous.
        eos_ids: (E,) int32.
        rows: slots, steps and positions of the plan, (R,) int32 each.
        state: by slot: score numbers (S, 8) fp32, temperature and top-p (S, 2) fp32, top-k, key and whether a
            strategy changes scores (S, 3) int32, last token (S,) int32, sentence state (S,) int32. The last two
            are written.
        sentence_table: (STATES, V) uint8.
        result: (4, C) int32: token, EOS probability's bits, EOS rank, flags; written from `first_column` on. The
            probability is NaN where scores are no numbers, and the token one that the model has.
    """
    slots, steps, positions = rows
    numbers, floats, draws, last, sentence = state
    vocabulary = logits.shape[1]
    _finish_step[(len(logits),)](
        logits, logits.stride(0), vocabulary, eos_ids, slots, steps, positions, numbers, floats, draws,
        last, sentence, sentence_table if sentence_table is not None else last, result,
        result.shape[1], first_column,
        E=len(eos_ids), BLOCK=min(4096, triton.next_power_of_2(vocabulary)), SENTENCES=sentence_table is not None,
        num_warps=8,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _begin_step(inputs, rows, tables, table_width, last, tokens, positions_out):
    """One row: its new page into its table, its last token and position into the model's input."""
    row = tl.program_id(0)
    slot = tl.load(inputs + row).to(tl.int64)
    updated = tl.load(inputs + 4 * rows + row).to(tl.int64)
    tl.store(tables + updated * table_width + tl.load(inputs + 5 * rows + row), tl.load(inputs + 6 * rows + row))
    tl.store(tokens + row, tl.load(last + slot).to(tl.int64))
    tl.store(positions_out + row, tl.load(inputs + rows + row).to(tl.int64))


def begin_step(inputs: Tensor, tables: Tensor, last: Tensor, tokens: Tensor, positions: Tensor) -> None:
    """Make the model's input of a decode step.

    Args:
        inputs: (7, R) int32: slots, lengths, steps, positions, and the page table's changes as slot, index, page.
        tables: (S, W) int32.
        last: (S,) int32.
        tokens: (R,) int64, written; `positions` likewise.
    """
    rows = inputs.shape[1]
    _begin_step[(rows,)](inputs, rows, tables, tables.shape[1], last, tokens, positions, num_warps=1)
