"""The end of a step: penalties, strategies, sampling, and EOS statistics.

One program a row. A greedy row reads its scores once, a sampled one once more, and as often as `drawing` says
where it has top-k or top-p. Rows whose parameters change scores are left to a second launch of few programs: each
takes one such row after the other through a room of its own. Without such rows it does nothing.
"""

import triton
import triton.language as tl
from torch import Tensor

from endmark.jobs.landing import LANDED
from endmark.worker.engine.cuda.kernels.adjusting import adjust, real
from endmark.worker.engine.cuda.kernels.drawing import draw, ordered, published_pass
from endmark.worker.engine.cuda.kernels.scanning import best_eos, eos_mass, scan
from endmark.worker.engine.cuda.kernels.steering import (
    counted,
    is_one_of,
    is_open,
    keep_allowed,
    keep_last,
    score_numbers,
    steer,
)
from endmark.worker.engine.cuda.rooms import Rooms, SampledRows, Steering
from endmark.worker.engine.flags import FORCED, HIDDEN, NATURAL
from endmark.worker.engine.layout import LISTS, RESULT, SLOT

_LANDED, _NATURAL, _FORCED, _HIDDEN = (tl.constexpr(value) for value in (LANDED, NATURAL, FORCED, HIDDEN))
_LARGEST_GROWTH = tl.constexpr(1e30)
_SLOT_WIDTH, _LISTS_WIDTH = tl.constexpr(SLOT.width), tl.constexpr(LISTS.width)
_LANDING, _KEY, _SHAPED, _ADJUSTED, _MASKED = (
    tl.constexpr(SLOT[name]) for name in ("landing", "key", "shaped", "adjusted", "masked")
)
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P = (
    tl.constexpr(SLOT[name]) for name in ("temperature", "top_k", "top_p", "min_p")
)
_START, _FULL, _POWER, _MARGIN, _AFTER_SENTENCE, _FACTOR, _RATIO, _FORCE_AT, _BAR = (
    tl.constexpr(SLOT[name])
    for name in ("start", "full", "power", "margin", "after_sentence", "factor", "ratio", "force_at", "bar")
)
_TOKEN, _PROB, _RANK, _FLAGS = (tl.constexpr(RESULT[name]) for name in ("token", "eos_prob", "rank", "flags"))


@triton.jit
def _strength(record, n, after_sentence, state, share):
    """Return by what the strategies raise EOS at this step, growth and ramp; `share` is its probability."""
    start = real(record, _START)
    span = real(record, _FULL) - start
    power = real(record, _POWER)
    factor = real(record, _FACTOR)
    growth = tl.minimum(tl.exp2(tl.log2(factor) * tl.maximum(n - start, 0.0)), _LARGEST_GROWTH)
    rise = tl.minimum(tl.maximum((n - start) / tl.maximum(span, 1e-9), 0.0), 1.0)
    ramp = tl.where(rise > 0, tl.exp2(tl.log2(tl.where(rise > 0, rise, 1.0)) * power), 0.0)
    bar = real(record, _BAR)
    passes = (rise >= 1.0) | ((rise > 0) & (share >= tl.exp(-bar * tl.sqrt(tl.sqrt(rise)))))
    ramp = tl.where(bar > 0, passes.to(tl.float32), ramp)
    return growth, tl.where((span > 0) & ((state >= _LANDED) | (after_sentence == 0.0)), ramp, 0.0)


@triton.jit
def _choose(
    row_ptr, V, ids_ptr, targets, inserts, record, step, position, highest, mass, best_raw, other_token,
    sentence_table, E: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr, SENTENCES: tl.constexpr,
):  # fmt: skip
    """Choose a row's token and keep it in its record; return it with its flags.

    Called EOS here are the ids that the row's score numbers act on: the ends of its phase, while that is open.
    """
    n, opened = counted(record, step).to(tl.float32), is_open(record)
    numbers = score_numbers(record, opened)
    margin = real(numbers, _MARGIN)
    after_sentence = real(numbers, _AFTER_SENTENCE)
    ratio = real(numbers, _RATIO)
    temperature = real(record, _TEMPERATURE)
    shaped = tl.load(record + _SHAPED) != 0
    published = ratio == ratio
    state = tl.load(record + _LANDING)

    eos_raw, eos_first = best_eos(row_ptr, V, targets, 0.0, 1.0, 0.0, 0.0, False, T)
    forced = (real(numbers, _FORCE_AT) == n) & (eos_raw > -float("inf"))
    growth, ramp = _strength(numbers, n, after_sentence, state, eos_mass(row_ptr, targets, highest, T) / mass)
    # The published arithmetic keeps the order of scores, so the best other token is the same after it.
    best_other = tl.where(published, published_pass(published_pass(best_raw, ratio), 1.0), best_raw)
    eos_score, eos_token = best_eos(row_ptr, V, targets, best_other, growth, ramp, margin, published, T)
    other_score = tl.where(forced, -float("inf"), best_other)
    eos_wins = (eos_score > other_score) | ((eos_score == other_score) & (eos_token < other_token))
    token = tl.where(eos_wins, eos_token, other_token)
    meant = is_one_of(token, targets, T)
    natural = ((eos_raw > best_raw) | ((eos_raw == best_raw) & (eos_first < other_token))) == meant
    end_score = eos_score
    if opened:
        end_raw, _ = best_eos(row_ptr, V, ids_ptr, 0.0, 1.0, 0.0, 0.0, False, E)
        end_score = tl.where(published, published_pass(published_pass(end_raw, ratio), 1.0), end_raw)
    hidden = end_score == -float("inf")
    if temperature > 0:
        top_p = real(record, _TOP_P)
        top_k = tl.load(record + _TOP_K)
        min_p = real(record, _MIN_P)
        key = tl.load(record + _KEY).to(tl.uint32, bitcast=True)
        peak = tl.math.div_rn(tl.maximum(eos_score, other_score), temperature)
        token, floor = draw(
            row_ptr, V, targets, temperature, top_k, top_p, min_p, key, position, ratio, published, forced,
            best_other, growth, ramp, margin, peak, T, BLOCK,
        )  # fmt: skip
        hidden = hidden | (ordered(tl.math.div_rn(end_score, temperature)) < floor)
        meant = is_one_of(token, targets, T)
        if shaped & (meant | is_one_of(token, ids_ptr, E)):
            without, floor = draw(
                row_ptr, V, targets, temperature, top_k, top_p, min_p, key, position, ratio, published & False,
                forced & False, best_raw, 1.0, 0.0, 0.0, tl.math.div_rn(highest, temperature), T, BLOCK,
            )  # fmt: skip
            natural = tl.where(meant, is_one_of(without, targets, T), is_one_of(without, ids_ptr, E))

    flags = tl.where(natural, _NATURAL, tl.where(forced, _FORCED, 0))
    flags = tl.where(shaped, tl.where(meant | is_one_of(token, ids_ptr, E), flags, 0), _NATURAL)
    token, flags, begins_anew = steer(
        record, inserts, targets, ids_ptr, step, token, flags, natural | (shaped == 0), opened, T, E
    )
    keep_last(record, token, after_sentence, sentence_table, state, V, begins_anew, SENTENCES)
    return token, flags + tl.where(hidden, _HIDDEN, 0)


@triton.jit
def _tell(out, columns, token, prob, rank, flags):
    """Write a row's column of the result."""
    tl.store(out + _TOKEN * columns, token)
    tl.store(out + _PROB * columns, prob.to(tl.int32, bitcast=True))
    tl.store(out + _RANK * columns, rank)
    tl.store(out + _FLAGS * columns, flags)


@triton.jit(do_not_specialize=["columns", "first_column", "eos_place"])
def _finish_step(
    logits, stride, V, ids_ptr, slots, steps, positions, records, sentence_table, result, columns,
    first_column, target_table, eos_place, insert_table,
    E: tl.constexpr, T: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr, SENTENCES: tl.constexpr,
):  # fmt: skip
    """One row, if its scores are drawn from as they are."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    record = records + slot * _SLOT_WIDTH
    if tl.load(record + _ADJUSTED) == 0:
        targets = target_table + tl.where(is_open(record), slot, eos_place) * T
        row_ptr = logits + row.to(tl.int64) * stride
        eos_raw, _ = best_eos(row_ptr, V, ids_ptr, 0.0, 1.0, 0.0, 0.0, False, E)
        highest, mass, rank, best, other_token = scan(row_ptr, V, targets, eos_raw, row_ptr, False, T, BLOCK)
        prob = eos_mass(row_ptr, ids_ptr, highest, E) / mass
        token, flags = _choose(
            row_ptr, V, ids_ptr, targets, insert_table + slot * MOST, record, tl.load(steps + row),
            tl.load(positions + row), highest, mass, best, other_token, sentence_table, E, T, BLOCK, SENTENCES,
        )  # fmt: skip
        _tell(result + first_column + row, columns, token, prob, rank, flags)


@triton.jit(do_not_specialize=["columns", "first_column", "eos_place", "rows"])
def _finish_adjusted(
    logits, stride, V, ids_ptr, slots, lengths, steps, positions, records, sentence_table, result, columns,
    first_column, target_table, eos_place, insert_table, rows, tables, table_width, lists, history, scores, counts,
    masks, mask_width,
    PAGE: tl.constexpr, E: tl.constexpr, T: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
    SENTENCES: tl.constexpr,
):  # fmt: skip
    """Every so manieth row, if a parameter of its sampling changes its scores."""
    program = tl.program_id(0)
    room = scores + program.to(tl.int64) * V
    for row in range(program, rows, tl.num_programs(0)):
        slot = tl.load(slots + row).to(tl.int64)
        record = records + slot * _SLOT_WIDTH
        if tl.load(record + _ADJUSTED) != 0:
            row_ptr = logits + tl.cast(row, tl.int64) * stride
            targets = target_table + tl.where(is_open(record), slot, eos_place) * T
            eos_raw, _ = best_eos(row_ptr, V, ids_ptr, 0.0, 1.0, 0.0, 0.0, False, E)
            highest, mass, rank, _, _ = scan(row_ptr, V, ids_ptr, eos_raw, room, True, E, BLOCK)
            prob = eos_mass(row_ptr, ids_ptr, highest, E) / mass
            adjust(
                room, counts + program.to(tl.int64) * V, V, ids_ptr, record, lists + slot * _LISTS_WIDTH,
                tables + slot * table_width, history, tl.load(lengths + row) + 1, E, PAGE, BLOCK,
            )  # fmt: skip
            shut = False
            if tl.load(record + _MASKED) != 0:
                before, _ = best_eos(room, V, ids_ptr, 0.0, 1.0, 0.0, 0.0, False, E)
                keep_allowed(room, masks + slot * mask_width, V, BLOCK)
                after, _ = best_eos(room, V, ids_ptr, 0.0, 1.0, 0.0, 0.0, False, E)
                shut = (after == -float("inf")) & (before > -float("inf"))
            highest, mass, _, best, other_token = scan(room, V, targets, 0.0, room, False, T, BLOCK)
            token, flags = _choose(
                room, V, ids_ptr, targets, insert_table + slot * MOST, record, tl.load(steps + row),
                tl.load(positions + row), highest, mass, best, other_token, sentence_table, E, T, BLOCK, SENTENCES,
            )  # fmt: skip
            flags = tl.where(shut & (rank > 0), flags & ~_HIDDEN, flags)
            _tell(result + first_column + row, columns, token, prob, rank, flags)
            tl.debug_barrier()  # the next row takes the room


def finish_step(
    logits: Tensor,
    eos_ids: Tensor,
    rows: SampledRows,
    records: Tensor,
    sentence_table: Tensor | None,
    steering: Steering,
    rooms: Rooms,
    result: Tensor,
    first_column: int = 0,
) -> None:
    """Sample the next token of each row and note what the verdict needs.

    Args:
        logits: (R, V) raw, of the model's type, rows contiguous.
        eos_ids: (E,) int32.
        rows: of the plan.
        records: (S, SLOT.width) int32, by slot; last token, state of landing spots, phase and the begin of an
            insertion are written.
        sentence_table: (STATES, V) uint8.
        steering: of the rows that have any.
        rooms: for rows whose scores are changed.
        result: (RESULT.width, C) int32, written from `first_column` on. The probability is NaN where scores are
            no numbers, and the token one that the model has.
    """
    vocabulary = logits.shape[1]
    table = sentence_table if sentence_table is not None else records
    sizes = {
        "E": len(eos_ids),
        "T": steering.targets.shape[1],
        "MOST": steering.inserts.shape[1],
        "BLOCK": min(4096, triton.next_power_of_2(vocabulary)),
        "SENTENCES": sentence_table is not None,
        "num_warps": 8,
    }
    steered = steering.targets, len(steering.targets) - 1, steering.inserts
    _finish_step[(len(logits),)](
        logits, logits.stride(0), vocabulary, eos_ids, rows.slots, rows.steps, rows.positions, records, table,
        result, result.shape[1], first_column, *steered, **sizes,
    )  # fmt: skip
    _finish_adjusted[(min(len(logits), len(rooms.scores)),)](
        logits, logits.stride(0), vocabulary, eos_ids, *rows, records, table, result, result.shape[1],
        first_column, *steered, len(logits), rooms.tables, rooms.tables.shape[1], rooms.lists, rooms.history,
        rooms.scores, rooms.counts, rooms.masks, rooms.masks.shape[1], PAGE=rooms.history.shape[1], **sizes,
    )  # fmt: skip
