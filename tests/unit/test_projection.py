"""What a dataset would take, from sums over a sample."""

import random

import pytest

from endmark.cli.projection import project, told
from endmark.db.summaries import TokenSums

pytestmark = pytest.mark.unit


def sums(prompts, answers):
    return TokenSums(
        len(answers), sum(prompts), sum(n * n for n in prompts), sum(answers), sum(n * n for n in answers)
    )


def test_tokens_time_and_cost_follow_from_means():
    found = project(sums([10] * 4, [80, 120, 80, 120]), rows=1000, tokens_per_second=50.0, devices=2, price=3.0)
    assert (found.prompt_tokens.low, found.prompt_tokens.high) == (10_000, 10_000)
    assert found.completion_tokens.value == 100_000
    assert found.completion_tokens.low < 100_000 < found.completion_tokens.high
    assert found.seconds.value == 2000.0
    assert found.cost.value == pytest.approx(2000 / 3600 * 2 * 3.0)
    assert found.cost.low / found.cost.value == pytest.approx(found.completion_tokens.low / 100_000)


def test_a_dataset_that_was_run_whole_leaves_nothing_open():
    found = project(sums([1, 2], [10, 30]), rows=2, tokens_per_second=1.0, devices=1, price=None)
    assert found.completion_tokens.low == found.completion_tokens.value == found.completion_tokens.high == 40
    assert found.cost is None
    assert "cost" not in told(found, None)


def test_the_interval_holds_the_truth_in_about_95_of_100_samples():
    rng = random.Random(1)
    dataset = [min(400, round(rng.lognormvariate(4.5, 0.7))) for _ in range(20_000)]
    held = 0
    for _ in range(300):
        drawn = rng.sample(dataset, 100)
        found = project(sums([1] * 100, drawn), rows=20_000, tokens_per_second=1.0, devices=1, price=None)
        held += found.completion_tokens.low <= sum(dataset) <= found.completion_tokens.high
    assert 270 <= held <= 297


def test_it_is_told_in_lines():
    found = project(
        sums([10] * 4, [80, 120, 80, 120]), rows=1_000_000, tokens_per_second=5000.0, devices=1, price=2.5
    )
    lines = told(found, 2.5).splitlines()
    assert lines[0] == "rows      1,000,000, of which 4 were run"
    assert lines[2].startswith("answers   100,000,000 tokens (")
    assert lines[3].startswith("time      5.6 hours (")
    assert lines[3].endswith(" on 1 device, at 5,000 tokens/s")
    assert lines[4].endswith("at 2.50 for a device and hour")


def test_nothing_is_said_of_time_where_no_speed_is_known():
    found = project(sums([1, 1], [3, 3]), rows=9, tokens_per_second=0.0, devices=1, price=1.0)
    assert (found.seconds, found.cost) == (None, None)
