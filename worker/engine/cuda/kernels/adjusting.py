"""What `worker.engine.adjusting` does to a row's scores, by one program, over the row's tokens in its pages."""

import triton
import triton.language as tl

from endmark.worker.engine.adjusting import DRY_ALLOWED, DRY_BASE, DRY_LONGEST
from endmark.worker.engine.layout import LISTS, LONGEST_WORD, MOST_SEQUENCES, SLOT

_ALLOWED, _BASE, _LONGEST = (tl.constexpr(value) for value in (DRY_ALLOWED, DRY_BASE, DRY_LONGEST))
_PROMPT = tl.constexpr(SLOT["prompt"])
_REPETITION = tl.constexpr(SLOT["repetition_penalty"])
_FREQUENCY = tl.constexpr(SLOT["frequency_penalty"])
_PRESENCE = tl.constexpr(SLOT["presence_penalty"])
_DRY = tl.constexpr(SLOT["dry_multiplier"])
_BIASES, _WORDS = tl.constexpr(SLOT["biases"]), tl.constexpr(SLOT["words"])
_BIAS_TOKENS, _BIAS_VALUES, _WORD_LENGTHS, _WORD_TOKENS = (
    tl.constexpr(LISTS[name]) for name in ("bias_tokens", "bias_values", "word_lengths", "word_tokens")
)
_MOST_SEQUENCES, _LONGEST_WORD = tl.constexpr(MOST_SEQUENCES), tl.constexpr(LONGEST_WORD)
_NO_REPEAT = tl.constexpr(SLOT["no_repeat_ngram_size"])
_MIN_NEW = tl.constexpr(SLOT["min_new_tokens"])
_IN_PROMPT = tl.constexpr(1 << 30)  # beside the count of a token in the answer


@triton.jit
def real(record, offset, mask=None):
    """Return an fp32 number of a record, or several."""
    return tl.load(record + offset, mask=mask).to(tl.float32, bitcast=True)


@triton.jit
def _tokens_at(table, history, index, mask, PAGE: tl.constexpr):
    """Return the tokens at some places of a row."""
    page = tl.load(table + index // PAGE, mask=mask, other=0).to(tl.int64)
    return tl.load(history + page * PAGE + index % PAGE, mask=mask, other=0)


@triton.jit
def _bias(scores, V, record, lists, BLOCK: tl.constexpr):
    """Add what is to be added to some tokens, each of which is named once."""
    lanes, count = tl.arange(0, BLOCK), tl.load(record + _BIASES)
    for start in range(0, count, BLOCK):
        index = start + lanes
        token = tl.load(lists + _BIAS_TOKENS + index, mask=index < count, other=0)
        inside = (index < count) & (token < V)
        bias = real(lists, _BIAS_VALUES + index, inside)
        tl.store(scores + token, tl.load(scores + token, mask=inside, other=0.0) + bias, mask=inside)
    tl.debug_barrier()


@triton.jit
def _exclude(scores, V, record, lists, table, history, total, PAGE: tl.constexpr):
    """Exclude the last token of each sequence whose other tokens the row ends with."""
    index = tl.arange(0, _MOST_SEQUENCES)
    inside = index < tl.load(record + _WORDS)
    begun = tl.load(lists + _WORD_LENGTHS + index, mask=inside, other=1) - 1
    word = lists + _WORD_TOKENS + index * _LONGEST_WORD
    matches = inside & (begun <= total)
    for place in range(_LONGEST_WORD - 1):
        compared = matches & (place < begun)
        there = _tokens_at(table, history, total - begun + place, compared, PAGE)
        matches = matches & (~compared | (there == tl.load(word + place, mask=compared, other=-1)))
    last = tl.load(word + begun, mask=matches, other=0)
    tl.store(scores + last, -float("inf"), mask=matches & (last < V))
    tl.debug_barrier()


@triton.jit
def _exclude_repeats(scores, V, table, history, total, size, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Exclude each token that would complete a run of so many tokens that the row holds."""
    lanes = tl.arange(0, BLOCK)
    for start in range(0, total - size + 1, BLOCK):
        index = start + lanes
        same = index + size <= total
        for place in range(size - 1):
            begun = _tokens_at(table, history, total - size + 1 + place, total >= size, PAGE)
            same = same & (_tokens_at(table, history, index + place, same, PAGE) == begun)
        last = _tokens_at(table, history, index + size - 1, same, PAGE)
        tl.store(scores + last, -float("inf"), mask=same & (last < V))
    tl.debug_barrier()


@triton.jit
def _penalise(scores, counts, V, record, table, history, total, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Take repetition, frequency and presence penalty off, each token's by the one lane that finds its count."""
    repetition, frequency, presence = real(record, _REPETITION), real(record, _FREQUENCY), real(record, _PRESENCE)
    prompt = tl.load(record + _PROMPT)
    begin = tl.where(repetition == 1.0, prompt, 0)
    lanes = tl.arange(0, BLOCK)
    for start in range(begin, total, BLOCK):
        index = start + lanes
        token = _tokens_at(table, history, index, index < total, PAGE)
        inside = (index < total) & (token < V)
        tl.atomic_or(counts + token, _IN_PROMPT, mask=inside & (index < prompt), sem="relaxed", scope="cta")
        tl.atomic_add(counts + token, 1, mask=inside & (index >= prompt), sem="relaxed", scope="cta")
    tl.debug_barrier()
    for start in range(begin, total, BLOCK):
        index = start + lanes
        token = _tokens_at(table, history, index, index < total, PAGE)
        inside = (index < total) & (token < V)
        found = tl.atomic_xchg(counts + token, 0, mask=inside, sem="relaxed", scope="cta")
        mine = inside & (found != 0)
        score = tl.load(scores + token, mask=mine, other=0.0)
        score = tl.where(score < 0, score * repetition, tl.math.div_rn(score, repetition))
        times = found & (_IN_PROMPT - 1)
        score = score - frequency * times.to(tl.float32)
        score = score - tl.where(times > 0, presence, 0.0)
        tl.store(scores + token, score, mask=mine)
    tl.debug_barrier()


@triton.jit
def _dry(scores, counts, V, record, table, history, total, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Take off what repeating a run of the answer costs; losses are kept as bits, which order as they do."""
    multiplier, prompt = real(record, _DRY), tl.load(record + _PROMPT)
    lanes = tl.arange(0, BLOCK)
    for start in range(prompt + 1, total, BLOCK):
        index = start + lanes
        alive = index < total
        loss = tl.zeros([BLOCK], tl.float32)
        run = 1
        going = tl.max(alive.to(tl.int32), 0) > 0
        while going:
            last = _tokens_at(table, history, total - run, total - run >= prompt, PAGE)
            alive = alive & (index - run >= prompt)
            alive = alive & (_tokens_at(table, history, index - run, alive, PAGE) == last)
            grown = tl.where(run > _ALLOWED, loss * _BASE, multiplier)
            loss = tl.where(alive & (run >= _ALLOWED), grown, loss)
            run += 1
            going = (run <= _LONGEST) & (tl.max(alive.to(tl.int32), 0) > 0)
        token = _tokens_at(table, history, index, index < total, PAGE)
        costs = (loss > 0) & (token < V)
        tl.atomic_max(counts + token, loss.to(tl.int32, bitcast=True), mask=costs, sem="relaxed", scope="cta")
    tl.debug_barrier()
    for start in range(prompt + 1, total, BLOCK):
        index = start + lanes
        token = _tokens_at(table, history, index, index < total, PAGE)
        inside = (index < total) & (token < V)
        found = tl.atomic_xchg(counts + token, 0, mask=inside, sem="relaxed", scope="cta")
        mine = inside & (found != 0)
        score = tl.load(scores + token, mask=mine, other=0.0)
        tl.store(scores + token, score - found.to(tl.float32, bitcast=True), mask=mine)
    tl.debug_barrier()


@triton.jit
def adjust(
    scores, counts, V, ids_ptr, record, lists, table, history, total,
    E: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Change a row's scores.

    Args:
        scores: (V,) fp32, the raw ones, changed in place.
        counts: (V,) int32, all 0, and so again at the end.
        record: of the row's slot, as are the lists.
        table: its pages.
        history: (pages, PAGE) int32, the tokens in them.
        total: tokens of the row, prompt and answer.
    """
    tl.debug_barrier()
    if tl.load(record + _BIASES) > 0:
        _bias(scores, V, record, lists, BLOCK)
    counted = (real(record, _FREQUENCY) != 0) | (real(record, _PRESENCE) != 0)
    if counted | (real(record, _REPETITION) != 1.0):
        _penalise(scores, counts, V, record, table, history, total, PAGE, BLOCK)
    if real(record, _DRY) > 0:
        _dry(scores, counts, V, record, table, history, total, PAGE, BLOCK)
    if tl.load(record + _NO_REPEAT) > 0:
        _exclude_repeats(scores, V, table, history, total, tl.load(record + _NO_REPEAT), PAGE, BLOCK)
    if tl.load(record + _WORDS) > 0:
        _exclude(scores, V, record, lists, table, history, total, PAGE)
    if total - tl.load(record + _PROMPT) < tl.load(record + _MIN_NEW):
        for index in tl.static_range(E):
            tl.store(scores + tl.load(ids_ptr + index), -float("inf"))
    tl.debug_barrier()
