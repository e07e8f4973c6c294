"""From the plan of a row to what the device keeps for it: the same record on every path."""

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.layout import LISTS, LONGEST_WORD, PHASE_SCORES, SLOT, sampling_values, score_values
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.sampler import stream_key
from endmark.worker.engine.steering import NEVER, Standing


def slot_record(row: PrefillRow) -> NDArray[np.int32]:
    """Return the record (SLOT.width,) of a row that begins; its last token is written by the step itself."""
    phase, insertion = row.phase, row.insertion
    shaped = not row.numbers.is_neutral or (phase is not None and not phase.numbers.is_neutral)
    values = score_values(phase.numbers if phase is not None else ScoreNumbers())
    return SLOT.pack(
        {
            "landing": row.sentence_state,
            "key": stream_key(row.sampling.seed, row.stream),
            "adjusted": row.sampling.adjusts or row.mask is not None,
            "masked": row.mask is not None,
            "prompt": row.prompt,
            "biases": len(row.sampling.logit_bias),
            "words": len(row.bad_words),
            "shaped": shaped,
            "phase": _standing(row),
            "opens_with": phase.opens_with if phase is not None and phase.opens_with is not None else -1,
            "restarts": phase is not None and phase.restarts,
            "origin": row.origin,
            "eos_inserts": phase is not None and phase.eos_inserts,
            "insert_at": insertion.at if insertion is not None else NEVER,
            "insert_count": len(insertion.token_ids) if insertion is not None else 0,
            "mark_begin": len(insertion.token_ids) - phase.length if phase and phase.mark and insertion else -1,
            "matched": row.matched,
            **dict(zip(PHASE_SCORES, values.values(), strict=True)),
            **sampling_values(row.sampling),
            **score_values(row.numbers),
        }
    )


def slot_lists(row: PrefillRow) -> NDArray[np.int32] | None:
    """Return what is kept beside the record, (LISTS.width,); None for a row without lists."""
    if not (row.sampling.logit_bias or row.bad_words):
        return None
    lists = np.zeros(LISTS.width, np.int32)
    LISTS.fill(lists, "bias_tokens", [token for token, _ in row.sampling.logit_bias])
    LISTS.fill(lists, "bias_values", [float(bias) for _, bias in row.sampling.logit_bias])
    LISTS.fill(lists, "word_lengths", [len(word) for word in row.bad_words])
    places = [[*word, *[0] * (LONGEST_WORD - len(word))] for word in row.bad_words]
    LISTS.fill(lists, "word_tokens", [token for place in places for token in place])
    return lists


def _standing(row: PrefillRow) -> Standing:
    """Return how a row that begins stands to its phase."""
    if row.phase is None:
        return Standing.NONE
    if row.phase_undecided:
        return Standing.UNDECIDED
    return Standing.OPEN if row.phase_open else Standing.CLOSED
