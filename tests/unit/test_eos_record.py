"""What an attempt's steps say of EOS, against all steps looked at once."""

import random

import pytest

from endmark.worker.engine.eos_record import EosRecord
from endmark.worker.engine.flags import FORCED, HIDDEN, INSERTED, NATURAL

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("curve", [True, False])
def test_the_trace_is_of_the_most_probable_step_and_counts_the_hidden_ones(seed, curve):
    rng = random.Random(seed)
    record = EosRecord(curve=curve)
    steps = [
        (rng.choice([0.0, 0.25, 0.5, rng.random()]), rng.randrange(9), rng.choice([0, NATURAL, FORCED, INSERTED]))
        for _ in range(rng.choice([1, 2, 30]))
    ]
    steps = [(prob, rank, flags | rng.choice([0, HIDDEN])) for prob, rank, flags in steps]
    for step, item in enumerate(steps):
        record.see(step, *item)
    trace = record.trace()
    best = max(range(len(steps)), key=lambda step: steps[step][0])  # the first of equal ones
    assert (trace.prob_max, trace.step_max, trace.rank_max) == (steps[best][0], best, steps[best][1])
    assert trace.hidden_steps == sum(bool(flags & HIDDEN) for _, _, flags in steps)
    assert trace.probs == (tuple(prob for prob, _, _ in steps) if curve else None)
    record.forget(1)
    assert record.trace().probs == ((steps[0][0],) if curve else None)
    assert record.trace().prob_max == trace.prob_max, "what was seen was seen"


def test_without_a_step_nothing_was_seen():
    for curve, probs in ((True, ()), (False, None)):
        trace = EosRecord(curve=curve).trace()
        assert (trace.prob_max, trace.step_max, trace.rank_max) == (None, None, None)
        assert (trace.hidden_steps, trace.probs) == (0, probs)


def test_a_probability_of_nothing_was_seen_too():
    record = EosRecord(curve=False)
    record.see(0, 0.0, 12, 0)
    assert (record.trace().prob_max, record.trace().rank_max) == (0.0, 12)
