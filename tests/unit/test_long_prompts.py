"""Prompts far longer than others': which are, how large their pieces, and which share of the time they have."""

import itertools
from fractions import Fraction

import pytest

from endmark.worker.engine import rates
from endmark.worker.engine.long_prompts import LongPrompts
from endmark.worker.engine.scripted import ScriptedRunner

pytestmark = pytest.mark.unit

FAR = rates.FAR


def long_prompts(**options):
    return LongPrompts(ScriptedRunner(lambda tokens: 7, **options))


@pytest.mark.parametrize(
    ("page", "piece", "expected"), [(4, 64, 32), (16, 70, 32), (16, 63, 16), (16, 24, 16), (64, 64, 64), (1, 9, 4)]
)
def test_a_piece_is_half_of_what_runs_beside_a_full_batch_in_whole_pages(page, piece, expected):
    assert long_prompts(page_size=page, piece_tokens=piece).piece == expected


@pytest.mark.parametrize(("prefill", "least"), [(64, 16), (256, 64), (67, 16), (8192, 2048)])
def test_no_prompt_of_a_quarter_of_a_step_is_long(prefill, least):
    assert long_prompts(prefill_tokens=prefill).least == least


@pytest.mark.parametrize(
    ("left", "others", "tokens", "is_long"),
    [(800, 1, 100, False), (801, 1, 100, True), (800, 5, 500, False), (801, 5, 500, True), (9, 0, 0, False)],
)
def test_a_long_prompt_has_eight_times_the_tokens_of_others_on_average(left, others, tokens, is_long):
    assert long_prompts().is_long(left, others, tokens) is is_long


@pytest.mark.parametrize("weight", [8, 64])
@pytest.mark.parametrize(("rows", "share"), [(0, 1), (1, 1), (2, 2), (11, 11), (12, 12), (13, 12), (900, 12)])
@pytest.mark.parametrize("before", [0, FAR // 2, 3 * FAR])
def test_its_pieces_cost_a_twelfth_of_the_time_of_others_steps_or_as_much_as_each_row(weight, rows, share, before):
    """A step costs its tokens and the reading of the weights; a token behind `FAR` others costs twice."""
    long = long_prompts(weight_tokens=weight, piece_tokens=64)
    credit = Fraction(0)
    for tokens in itertools.islice(itertools.cycle([5, 20, 11]), 60):
        credit += Fraction(weight + tokens, share)
        due = credit >= 32 * (1 + Fraction(before, FAR))
        assert long.due(500, before, rows, tokens) == (32 if due else 0)
        if due:
            credit = Fraction(0)


def test_the_last_piece_is_what_is_left_and_costs_no_more():
    long = long_prompts(weight_tokens=8, piece_tokens=64)
    assert long.due(5, 0, 2, 1) == 0
    assert long.due(5, 0, 2, 1) == 5
    assert long.due(5, 0, 2, 2) == 5


def test_the_rates_are_those_of_the_shape_they_name():
    """8 billion parameters: 32 layers of 4,096 numbers, 8 KV heads of 32, feed-forwards of 14,336."""
    width, heads, kv_heads, size, gated, layers = 4096, 32, 8, 128, 14336, 32
    weights = layers * (2 * width * heads * size + 2 * width * kv_heads * size + 3 * width * gated)
    token = 2 * weights / rates.PRODUCTS + rates.BESIDE_PRODUCTS
    pair = 2 * 2 * heads * size * layers / rates.PREFILL_ATTENTION  # scores, and what is read by them
    assert (pytest.approx(token, rel=1e-3), pytest.approx(pair, rel=1e-9)) == (rates.TOKEN, rates.PAIR)
    assert int(rates.TOKEN / rates.PAIR + 0.5) == rates.FAR
    measured = (rates.PRODUCTS, rates.PREFILL_ATTENTION, rates.BESIDE_PRODUCTS, rates.LAUNCH)
    assert measured == (670e12, 470e12, 1.3e-6, 0.044)
