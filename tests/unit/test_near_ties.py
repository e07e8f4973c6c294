"""What `benchmarks/near_ties.py` calls a near tie."""

import json

import pytest

from benchmarks.near_ties import is_near_tie, movements, parting
from endmark.jobs.vocabulary import Attempt, FinishReason, Verdict

pytestmark = pytest.mark.unit


def _answer(*steps: tuple[str, dict[str, float]]) -> Attempt:
    """An answer whose tokens were drawn from these best ones, the very best first."""
    told = [[token, best[token], list(best.items())] for token, best in steps]
    text = "".join(token for token, _ in steps)
    return Attempt(0, 1, text, Verdict(FinishReason.LENGTH), 1, len(steps), logprobs=json.dumps(told))


_FIRST = ("a", {"a": -0.1, "b": -3.0})
_NEAR = ("c", {"c": -0.70, "d": -0.71})
_NEAR_TURNED = ("d", {"d": -0.70, "c": -0.705})


def test_two_tokens_that_lie_closer_than_rounding_moves_others_are_a_near_tie():
    one, other = _answer(_FIRST, _NEAR), _answer(("a", {"a": -0.1, "b": -3.02}), _NEAR_TURNED)
    assert list(movements(one, other)) == pytest.approx([0.02])
    found = parting(one, other)
    assert found is not None
    assert (found.token, found.moved, found.greedy) == (1, pytest.approx(0.015), True)
    assert is_near_tie(found, 0.02)
    assert not is_near_tie(found, 0.01)


def test_scores_that_a_strategy_has_changed_are_none():
    """The answer took a token that is not the model's best, as it would if a strategy had changed the scores."""
    found = parting(_answer(_FIRST, _NEAR), _answer(_FIRST, ("d", {"c": -0.70, "d": -0.71})))
    assert found is not None
    assert not found.greedy
    assert not is_near_tie(found, 1.0)


def test_an_answer_that_ends_earlier_is_none():
    found = parting(_answer(_FIRST), _answer(_FIRST, _NEAR))
    assert found is not None
    assert found.token == 1
    assert not is_near_tie(found, 1.0)


def test_the_same_answers_do_not_part():
    assert parting(_answer(_FIRST, _NEAR), _answer(_FIRST, _NEAR)) is None


def test_a_token_that_the_other_run_does_not_tell_is_none():
    found = parting(_answer(_NEAR), _answer(("e", {"e": -0.7, "d": -0.8})))
    assert not is_near_tie(found, 1.0)
