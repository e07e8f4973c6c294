"""Numbers in messages: one thing is singular, and shares are written alike everywhere."""

import pytest

from endmark.jobs.spelling import as_percent, speed

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("value", "said"), [(0, "0 tokens/s"), (1.4, "1 token/s"), (1203.6, "1,204 tokens/s")])
def test_a_speed_of_one_token_is_singular(value, said):
    assert speed(value) == said


def test_shares():
    assert [as_percent(0.404), as_percent(1), as_percent(0.0246, 1)] == ["40 %", "100 %", "2.5 %"]
