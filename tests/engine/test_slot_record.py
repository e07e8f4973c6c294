"""What the device keeps of a row, number by number, against the row's plan."""

import math
import random

import numpy as np
import pytest

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.layout import LISTS, LONGEST_WORD, MOST_SEQUENCES, PHASE_SCORES, SAMPLING, SCORES, SLOT
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.sampler import stream_key
from endmark.worker.engine.slot_record import slot_lists, slot_record
from endmark.worker.engine.steering import NEVER, Insertion, Phase, Standing

pytestmark = pytest.mark.engine

NUMBERS = [
    ScoreNumbers(),
    ScoreNumbers(start=2, full=9, power=1.5, margin=4.0, after_sentence=True, bar=3.0, force_at=8),
]
PHASES = [
    None,
    Phase((7,)),
    Phase((7, 8), numbers=NUMBERS[1], eos_inserts=True),
    Phase((7,), opens_with=0, restarts=True),
    Phase((7,), mark=(7, 8, 9)),
]
SAMPLINGS = [
    Sampling(),
    Sampling(0.5, top_k=4, top_p=0.75, min_p=0.25, seed=2**31),
    Sampling(repetition_penalty=1.5),
    Sampling(logit_bias=((3, -1.5), (9, 100.0)), seed=4),
    Sampling(min_new_tokens=3),
]
INSERTIONS = [None, Insertion((5, 7, 8, 9)), Insertion((1,), at=0), Insertion((5, 7, 8, 9), at=6)]


def read(record):
    """The record's numbers by name, each in its type."""
    whole = {name: int(record[SLOT[name]]) for name in SLOT.whole}
    return whole | {name: float(record.view(np.float32)[SLOT[name]]) for name in SLOT.real}


def same(one, other):
    return one == other or (math.isnan(one) and math.isnan(other))


@pytest.mark.parametrize("seed", range(40))
def test_every_number_of_a_record_is_the_row_s(seed):
    rng = random.Random(seed)
    phase, insertion, sampling = rng.choice(PHASES), rng.choice(INSERTIONS), rng.choice(SAMPLINGS)
    standing = rng.choice(list(Standing)[1:]) if phase else Standing.NONE
    mask = rng.choice([None, np.zeros(2, np.int32)])
    row = PrefillRow(
        3, [5, 6], 0, [0], 1, 1,
        sampling=sampling, numbers=rng.choice(NUMBERS), stream=rng.randrange(2**20),
        sentence_state=rng.randrange(9),
        bad_words=rng.choice([(), ((4,), (5, 6))]), prompt=rng.randrange(9), insertion=insertion, phase=phase,
        phase_open=standing is Standing.OPEN, phase_undecided=standing is Standing.UNDECIDED,
        matched=rng.randrange(3), origin=rng.randrange(5), mask=mask,
    )  # fmt: skip
    numbers = phase.numbers if phase else ScoreNumbers()
    key = stream_key(sampling.seed, row.stream)
    expected = {
        "last": 0,
        "landing": row.sentence_state,
        "key": key - 2**32 * (key >= 2**31),
        "shaped": NUMBERS[1] in (row.numbers, numbers),
        "adjusted": sampling in SAMPLINGS[2:] or mask is not None,
        "masked": mask is not None,
        "prompt": row.prompt,
        "biases": 2 if sampling == SAMPLINGS[3] else 0,
        "words": len(row.bad_words),
        "phase": standing,
        "opens_with": 0 if phase == PHASES[3] else -1,
        "restarts": phase == PHASES[3],
        "origin": row.origin,
        "eos_inserts": phase == PHASES[2],
        "insert_at": insertion.at if insertion else NEVER,
        "insert_count": len(insertion.token_ids) if insertion else 0,
        "mark_begin": len(insertion.token_ids) - 3 if insertion and phase == PHASES[4] else -1,
        "matched": row.matched,
        **{name: getattr(sampling, name) for name in SAMPLING},
        **{name: getattr(row.numbers, name) for name in SCORES},
        **{name: getattr(numbers, name.removeprefix("phase_")) for name in PHASE_SCORES},
    }
    found = read(slot_record(row))
    assert found.keys() == expected.keys()
    exact = {name: value if name in SLOT.whole else float(np.float32(value)) for name, value in expected.items()}
    wrong = {name: (found[name], exact[name]) for name in found if not same(found[name], exact[name])}
    assert not wrong


def test_lists_stand_in_their_places():
    biases = tuple((token, token / 4) for token in (7, 3, 11))
    words = ((4,), (5, 6, 7), tuple(range(LONGEST_WORD)))
    sampling = Sampling(logit_bias=biases)
    row = PrefillRow(0, [5], 0, [0], 0, 0, sampling=sampling, numbers=ScoreNumbers(), stream=0, bad_words=words)
    lists = slot_lists(row)
    assert lists.shape == (LISTS.width,)
    assert lists.dtype == np.int32
    names = ("bias_tokens", "bias_values", "word_lengths", "word_tokens")
    begin, values, lengths, tokens = (LISTS[name] for name in names)
    assert lists[begin : begin + 4].tolist() == [7, 3, 11, 0]
    assert lists.view(np.float32)[values : values + 4].tolist() == [1.75, 0.75, 2.75, 0]
    assert lists[lengths : lengths + 4].tolist() == [1, 3, LONGEST_WORD, 0]
    places = lists[tokens:].reshape(MOST_SEQUENCES, LONGEST_WORD)
    for place, word in zip(places, (*words, ()), strict=False):
        assert place.tolist() == [*word, *[0] * (LONGEST_WORD - len(word))]


def test_a_row_without_lists_has_none():
    row = PrefillRow(0, [5], 0, [0], 0, 0, sampling=Sampling(), numbers=ScoreNumbers(), stream=0)
    assert slot_lists(row) is None
    assert LONGEST_WORD == 16
