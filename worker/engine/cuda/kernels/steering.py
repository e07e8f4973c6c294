"""What steers rows, on the device: which ids a row's numbers act on, tokens put in, and the end of its phase.

The same as `worker.engine.steering.RowSteering`, which is its oracle.
"""

import triton
import triton.language as tl

from endmark.jobs.landing import START
from endmark.worker.engine.flags import FORCED, INSERTED, NATURAL
from endmark.worker.engine.layout import PHASE_SCORES, SCORES, SLOT, STEP
from endmark.worker.engine.steering import Call, Standing

_NATURAL, _FORCED, _INSERTED, _START = (tl.constexpr(value) for value in (NATURAL, FORCED, INSERTED, START))
_OPEN, _CLOSED, _UNDECIDED, _IN_PHASE, _NOW = (
    tl.constexpr(int(value))
    for value in (Standing.OPEN, Standing.CLOSED, Standing.UNDECIDED, Call.IN_PHASE, Call.NOW)
)
_OPENS_WITH, _RESTARTS, _ORIGIN = (tl.constexpr(SLOT[name]) for name in ("opens_with", "restarts", "origin"))
_PHASE, _EOS_INSERTS, _INSERT_AT, _INSERT_COUNT, _LAST, _LANDING = (
    tl.constexpr(SLOT[name]) for name in ("phase", "eos_inserts", "insert_at", "insert_count", "last", "landing")
)
_MARK_BEGIN, _MATCHED = tl.constexpr(SLOT["mark_begin"]), tl.constexpr(SLOT["matched"])
_CALL, _STEP = tl.constexpr(STEP["call"]), tl.constexpr(STEP["step"])
_PHASE_SHIFT = tl.constexpr(SLOT[PHASE_SCORES[0]] - SLOT[SCORES.real[0]])


@triton.jit
def is_one_of(token, ids_ptr, COUNT: tl.constexpr):
    """Whether a token is one of some ids."""
    found = token == tl.load(ids_ptr)
    for index in tl.static_range(1, COUNT):
        found = found | (token == tl.load(ids_ptr + index))
    return found


@triton.jit
def is_open(record):
    """Whether the row's phase is open."""
    return tl.load(record + _PHASE) == _OPEN


@triton.jit
def counted(record, step):
    """Return the step that the row's score numbers count."""
    return step - tl.load(record + _ORIGIN)


@triton.jit
def score_numbers(record, opened):
    """Return the record as it is, or shifted so that the score numbers of its phase stand where others do."""
    return record + tl.where(opened, _PHASE_SHIFT, 0)


@triton.jit
def _goes_on(record, step):
    """Whether the row's insertion puts in the token of this step."""
    place = step - tl.load(record + _INSERT_AT)
    return (place >= 0) & (place < tl.load(record + _INSERT_COUNT))


@triton.jit
def take_call(record, column, rows):
    """Let the row's insertion begin with this step, if the step's input calls for it."""
    call = tl.load(column + _CALL * rows)
    if call != 0:
        step = tl.load(column + _STEP * rows)
        wanted = (call == _NOW) | ((call == _IN_PHASE) & is_open(record))
        if wanted & (_goes_on(record, step) == 0):
            tl.store(record + _INSERT_AT, step)


@triton.jit
def steer(
    record, inserts, targets, ids_ptr, step, token, flags, natural, opened, T: tl.constexpr, E: tl.constexpr
):
    """Put in what is to be put in, and end the phase where its end has come, or begin it.

    Return the token, its flags, and whether the text begins anew behind it.

    Args:
        inserts: the row's tokens to put in.
        targets: the ids that its numbers acted on, T of them; `ids_ptr` the E of EOS.
        natural: whether the token drawn is natural, where it is one of them.
    """
    meant, eos = is_one_of(token, targets, T), is_one_of(token, ids_ptr, E)
    count = tl.load(record + _INSERT_COUNT)
    going = _goes_on(record, step)
    begins = opened & eos & (tl.load(record + _EOS_INSERTS) != 0) & (count > 0) & (going == 0)
    if begins:
        tl.store(record + _INSERT_AT, step)
    at = tl.where(begins, step, tl.load(record + _INSERT_AT))
    inserted = going | begins
    put = tl.load(inserts + tl.where(inserted, step - at, 0))
    token = tl.where(inserted, put, token)
    closes = opened & is_one_of(token, targets, T)
    mark = tl.load(record + _MARK_BEGIN)
    if opened & (mark >= 0):
        before = tl.load(record + _MATCHED)
        goes_on = token == tl.load(inserts + mark + before)
        matched = tl.where(goes_on, before + 1, closes.to(tl.int32))
        tl.store(record + _MATCHED, matched)
        if (matched == 1) & (inserted == 0) & (natural == 0):
            tl.store(record + _INSERT_AT, step - mark)
        closes = matched == count - mark
    alike = (meant & is_one_of(token, targets, T)) | (eos & is_one_of(token, ids_ptr, E))
    put_flags = _INSERTED | _FORCED | tl.where(alike & natural, _NATURAL, 0)
    if closes:
        tl.store(record + _PHASE, _CLOSED)
        if tl.load(record + _RESTARTS) != 0:
            tl.store(record + _ORIGIN, step + 1)
        if inserted == 0:
            tl.store(record + _INSERT_COUNT, 0)
    undecided = tl.load(record + _PHASE) == _UNDECIDED
    opens = undecided & (token == tl.load(record + _OPENS_WITH))
    if undecided:
        tl.store(record + _PHASE, tl.where(opens, _OPEN, _CLOSED))
        if (opens == 0) & (inserted == 0):
            tl.store(record + _INSERT_COUNT, 0)
    return token, tl.where(inserted, put_flags, flags), closes | opens


@triton.jit
def keep_last(record, token, after_sentence, sentence_table, state, V, begins_anew, SENTENCES: tl.constexpr):
    """Keep the token for the next step, and the state of landing spots, which begins anew behind a phase."""
    tl.store(record + _LAST, token)
    if SENTENCES:
        if after_sentence > 0:
            tl.store(record + _LANDING, tl.load(sentence_table + state.to(tl.int64) * V + token).to(tl.int32))
    if begins_anew:
        tl.store(record + _LANDING, _START)


@triton.jit
def keep_allowed(scores, mask, V, BLOCK: tl.constexpr):
    """Exclude the tokens of a row that its mask has no bit for, in place."""
    tl.debug_barrier()
    for begin in range(0, V, BLOCK):
        offs = begin + tl.arange(0, BLOCK)
        word = tl.load(mask + offs // 32, mask=offs < V, other=0)
        tl.store(scores + offs, -float("inf"), mask=(offs < V) & (((word >> (offs % 32)) & 1) == 0))
    tl.debug_barrier()
