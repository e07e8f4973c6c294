"""Each score strategy on the device against a few lines of Python over one row's whole scores."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ExponentialDecayLengthPenalty

from endmark.jobs.strategies import ScoreNumbers, build_strategies, score_numbers
from endmark.worker.engine.layout import SLOT, score_values
from endmark.worker.engine.sampler import gumbel, stream_key
from endmark.worker.engine.scores import eos_statistics, forced_rows, shape_scores

pytestmark = pytest.mark.engine

VOCABULARY = 24
logits = st.lists(st.floats(-30, 30, width=32), min_size=VOCABULARY, max_size=VOCABULARY)
end_ids = st.sets(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3)
budgets = st.integers(1, 400)
shares = st.floats(0.0, 1.0)


def ramped(scores, eos, w, margin):
    best = max(score for token, score in enumerate(scores) if token not in eos)
    return [
        score + w * max(0.0, best + margin - score) if token in eos else score
        for token, score in enumerate(scores)
    ]


def eos_reward(scores, eos, n, budget, start=0.8, power=1.0, margin=5.0):
    if n == budget - 1:
        return [score if token in eos else -math.inf for token, score in enumerate(scores)]
    first, full = start * budget, budget - 1
    return ramped(scores, eos, ((n - first) / (full - first)) ** power, margin) if n > first else scores


def soft_landing(scores, eos, n, budget, ended, start=0.6, firm=0.8, power=2.0, margin=20.0):
    if not ended or n <= start * budget:
        return scores
    w = min(1.0, (n - start * budget) / (firm * budget - start * budget))
    return ramped(scores, eos, w**power, margin)


def exp_decay(scores, eos, n, budget, start=0.5, factor=1.05):
    first = int(start * budget)
    if n <= first:
        return scores
    return [
        score + abs(score) * (min(factor ** (n - first), 1e30) - 1) if token in eos else score
        for token, score in enumerate(scores)
    ]


def records(numbers):
    """Return the records of rows with these score numbers."""
    return torch.stack([torch.from_numpy(SLOT.pack(score_values(item))) for item in numbers])


def shape(rows, eos, numbers, steps, ended):
    """Run the device arithmetic on several rows at once."""
    return shape_scores(
        torch.tensor(rows, dtype=torch.float32),
        torch.tensor(sorted(eos)),
        records(numbers),
        torch.tensor(steps),
        torch.tensor(ended),
    )


def device(text, scores, eos, n, budget, ended=False):
    numbers = score_numbers(build_strategies([text]), budget)
    return shape([scores], eos, [numbers], [n], [ended])[0].tolist()


def assert_same(found, expected):
    assert found == pytest.approx(expected, rel=2e-5, abs=2e-4)


def a_step(budget, data):
    return data.draw(st.integers(0, budget - 1), label="n")


@settings(max_examples=150, deadline=None)
@given(logits, end_ids, budgets, shares, st.floats(0.5, 3), st.floats(0, 30), st.data())
def test_eos_reward(scores, eos, budget, start, power, margin, data):
    n = a_step(budget, data)
    found = device(f"eos-reward:start={start!r},power={power!r},margin={margin!r}", scores, eos, n, budget)
    expected = eos_reward(scores, eos, n, budget, start, power, margin)
    if n == budget - 1:  # what EOS scores where nothing else is left does not matter
        assert [score for token, score in enumerate(found) if token not in eos] == [-math.inf] * (24 - len(eos))
        assert all(math.isfinite(found[token]) for token in eos)
    else:
        assert_same(found, expected)


@settings(max_examples=150, deadline=None)
@given(logits, end_ids, budgets, shares, shares, st.booleans(), st.floats(0.5, 3), st.data())
def test_soft_landing(scores, eos, budget, start, firm, ended, power, data):
    start, firm = min(start, firm), max(start, firm)
    if firm - start < 1e-3:
        start, firm = 0.5, 0.8
    n = a_step(budget, data)
    text = f"soft-landing:start={start!r},firm={firm!r},power={power!r},margin=20"
    expected = soft_landing(scores, eos, n, budget, ended, start, firm, power)
    assert_same(device(text, scores, eos, n, budget, ended), expected)


def barred(scores, eos, n, budget, ended, start=0.6, firm=0.8, bar=6.0):
    x = min(1.0, (n - start * budget) / (firm * budget - start * budget))
    if not ended or x <= 0:
        return scores
    highest = max(scores)
    masses = [math.exp(score - highest) for score in scores]
    log_prob = math.log(sum(masses[token] for token in eos) / sum(masses) or 1e-300)
    if abs(log_prob + bar * x**0.25) < 1e-3 and x < 1:
        return None  # as near as fp32 tells
    return ramped(scores, eos, 1.0, 20.0) if x >= 1 or log_prob >= -bar * x**0.25 else scores


@settings(max_examples=200, deadline=None)
@given(logits, end_ids, budgets, st.floats(0, 0.8), st.booleans(), st.floats(0.1, 30), st.data())
def test_soft_landing_takes_what_passes_its_bar(scores, eos, budget, start, ended, bar, data):
    n = a_step(budget, data)
    firm = data.draw(st.floats(start + 0.01, 1.0), label="firm")
    text = f"soft-landing:start={start!r},firm={firm!r},bar={bar!r}"
    expected = barred(scores, eos, n, budget, ended, start, firm, bar)
    if expected is not None:
        assert_same(device(text, scores, eos, n, budget, ended), expected)


@pytest.mark.parametrize(
    ("n", "eos_score", "taken"),
    [(62, -1.0, False), (62, 4.0, True), (79, -2.5, True), (79, -3.1, False), (80, -9.0, True)],
)
def test_the_bar_falls_from_certainty_to_nothing(n, eos_score, taken):
    """The rise alone took the first spot that it reached: a nat below the best on average, three on the demo."""
    scores = [3.0, eos_score, *[-30.0] * 22]
    found = device("soft-landing", scores, {1}, n, 100, ended=True)
    assert (max(range(24), key=found.__getitem__) == 1) is taken


@settings(max_examples=150, deadline=None)
@given(logits, end_ids, budgets, st.booleans(), st.data())
def test_deadline_is_a_soft_landing_until_the_last_token_which_is_eos(scores, eos, budget, ended, data):
    for n in (a_step(budget, data), budget - 1):
        expected = barred(scores, eos, n, budget, ended)
        if expected is None:
            continue
        if n == budget - 1:
            expected = [score if token in eos else -math.inf for token, score in enumerate(expected)]
        assert_same(device("deadline", scores, eos, n, budget, ended), expected)


@settings(max_examples=150, deadline=None)
@given(logits, end_ids, budgets, shares, st.floats(1.001, 1.3), st.data())
def test_exp_decay(scores, eos, budget, start, factor, data):
    n = a_step(budget, data)
    found = device(f"exp-decay:start={start!r},factor={factor!r}", scores, eos, n, budget)
    expected = exp_decay(scores, eos, n, budget, start, factor)
    assert found == pytest.approx(expected, rel=1e-3, abs=2e-4)


@settings(max_examples=60, deadline=None)
@given(logits, end_ids, st.integers(0, 60), st.floats(1.001, 1.3), st.integers(0, 100))
def test_exp_decay_is_transformers_own(scores, eos, start, factor, n):
    prompt = 7
    penalty = ExponentialDecayLengthPenalty((start, factor), sorted(eos), input_ids_seq_length=prompt)
    expected = penalty(torch.zeros(1, prompt + n, dtype=torch.long), torch.tensor([scores]))[0].tolist()
    found = device(f"exp-decay:start_token={start},factor={factor!r}", scores, eos, n, 128)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@settings(max_examples=200, deadline=None)
@given(logits, st.integers(0, VOCABULARY - 1), budgets, st.data())
def test_eos_reward_published_to_the_last_digit(scores, eos, budget, data):
    """A transcription of the printed loop in numpy's fp32, product after product."""
    expected = np.array(scores, dtype=np.float32)
    others = np.arange(VOCABULARY) != eos
    for length in (max(0, int(budget * 0.8)), budget):
        r = length / budget
        rest = expected[others]
        exponential = np.exp(-np.sign(rest.astype(np.float64))).astype(np.float32)
        expected[others] = rest * np.float32(r) * np.float32(10) * exponential
        expected[eos] = np.float32(100.0 * r)
    found = device("eos-reward-published", scores, {eos}, a_step(budget, data), budget)
    assert (np.array(found, dtype=np.float32) == expected).all()


def test_the_published_figures():
    """EOS 100, the others times 10.83 or 591: EOS wins where no raw score exceeds 9.2, at the first token too."""
    found = device("eos-reward-published", [1.0, -1.0, 0.0, 5.0] + [0.0] * 20, {3}, 0, 500)
    assert found[:4] == pytest.approx([10.83, -591.1, 0.0, 100.0], rel=1e-3)
    assert device("eos-reward-published", [9.2, 0.0] + [0.0] * 22, {1}, 0, 500)[0] < 100
    assert device("eos-reward-published", [9.3, 0.0] + [0.0] * 22, {1}, 499, 500)[0] > 100


@settings(max_examples=100, deadline=None)
@given(st.lists(logits, min_size=2, max_size=6), end_ids, st.data())
def test_rows_do_not_see_each_other(rows, eos, data):
    texts = ["baseline", "eos-reward", "soft-landing", "exp-decay", "eos-reward-published"]
    chosen = [data.draw(st.sampled_from(texts)) for _ in rows]
    budget = data.draw(budgets)
    steps = [a_step(budget, data) for _ in rows]
    ended = [data.draw(st.booleans()) for _ in rows]
    numbers = [score_numbers(build_strategies([text]), budget) for text in chosen]
    together = shape(rows, eos, numbers, steps, ended)
    for index, row in enumerate(rows):
        alone = shape([row], eos, [numbers[index]], [steps[index]], [ended[index]])
        assert torch.equal(together[index], alone[0])
        if chosen[index] == "baseline":
            assert together[index].tolist() == torch.tensor(row, dtype=torch.float32).tolist()


@settings(max_examples=100, deadline=None)
@given(logits, end_ids)
def test_eos_probability_and_rank(scores, eos):
    prob, rank = eos_statistics(torch.tensor([scores]), torch.tensor(sorted(eos)))
    total = sum(math.exp(score - max(scores)) for score in scores)
    expected = sum(math.exp(scores[token] - max(scores)) for token in eos) / total
    assert prob.item() == pytest.approx(expected, rel=1e-4, abs=1e-9)
    best = max(scores[token] for token in eos)
    assert rank.item() == sum(score > best for score in scores)


def test_a_long_row_s_score_stays_a_number():
    """The growth once became infinite on long rows, and an EOS score of 0 times that is no number."""
    found = device("exp-decay:factor=2", [0.0] + [1.0] * 23, {0}, 4000, 4096)
    assert found[0] == 0.0
    assert all(math.isfinite(score) for score in device("exp-decay:factor=2", [-1.0] * 24, {0}, 4000, 4096))


@pytest.mark.parametrize("budget", [1, 2, 3, 10, 257])
def test_the_last_budgeted_token_alone_is_forced(budget):
    numbers = score_numbers(build_strategies(["eos-reward"]), budget)
    columns = records([numbers] * budget)
    assert forced_rows(columns, torch.arange(budget)).tolist() == [False] * (budget - 1) + [True]
    assert not forced_rows(records([ScoreNumbers()]), torch.tensor([0])).any()


def test_soft_landing_never_forces():
    for budget in range(1, 300):
        assert score_numbers(build_strategies(["soft-landing"]), budget).force_at == -1


def test_no_token_s_noise_is_infinite():
    """One of 2**24 numbers was rounded to 1, and its token drawn whatever its score: at temperature 1 and a
    vocabulary of 128,256 that was one step in 131, and what a mask forbids was drawn too."""
    noise = gumbel(torch.tensor([stream_key(0, 0)]), torch.tensor([7]), 5508)
    assert noise[0, 5507] > 16
    assert bool(noise.isfinite().all())


def test_a_rows_random_numbers_begin_where_splitmix64_says():
    """Hosts of other versions draw alike. The vectors are those of its author's code for the seed 1234567."""
    step, added, size = 0x9E3779B97F4A7C15, 0x94D049BB133111EB, 2**64
    for number, wanted in enumerate((6457827717110365317, 3203168211198807973, 9817491932198370423), 1):
        seed = (1234567 + number * step - added) * pow(step, -1, size) % size
        assert stream_key(seed, 0) == wanted % 2**32
    assert stream_key(7, 3) == stream_key((7 * step + 3 * 0xBF58476D1CE4E5B9) * pow(step, -1, size) % size, 0)
