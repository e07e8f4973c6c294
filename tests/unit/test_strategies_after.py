"""`continue` and `escalate`: what comes next, that it changes something, and that it ends."""

import itertools

import pytest

from endmark.jobs.strategies import build_strategies, follow_up, write_strategies
from endmark.jobs.vocabulary import Attempt, EosSource, FinishReason, Verdict

pytestmark = pytest.mark.unit

LENGTH = Verdict(FinishReason.LENGTH)


def attempt(number, strategies, verdict=LENGTH, tokens=10):
    return Attempt(
        row=0,
        attempt=number,
        text="text",
        verdict=verdict,
        prompt_tokens=3,
        completion_tokens=tokens,
        strategies=write_strategies(strategies),
    )


def play(text, verdict=LENGTH):
    """Follow up until nothing is left, every attempt ending the same way."""
    strategies = build_strategies([text])
    attempts, steps = [], []
    for number in itertools.count(1):
        assert number < 50
        attempts.append(attempt(number, strategies, verdict, tokens=10 * number))
        offer = follow_up(attempts, strategies)
        if offer is None:
            return steps
        strategies = offer.strategies
        steps.append((offer.keep_text, write_strategies(strategies), offer.max_new_tokens))
    return None


def test_continue_goes_on_twice():
    assert play("continue") == [(True, "continue", None)] * 2


def test_continue_with_its_own_budget():
    assert play("soft-landing;continue:times=1,max_new_tokens=40") == [
        (True, "soft-landing;continue:times=1,max_new_tokens=40", 40)
    ]


def test_escalate_tries_its_list():
    assert play("escalate") == [
        (False, "escalate;soft-landing", None),
        (False, "escalate;eos-reward", None),
    ]


def test_escalate_replaces_the_score_strategy_and_keeps_the_rest():
    assert play("exp-decay;stop:text=x;escalate:to=soft-landing") == [
        (False, "stop:text=x;escalate:to=soft-landing;soft-landing", None)
    ]


def test_escalate_goes_on_behind_what_the_row_began_with():
    assert play("soft-landing;escalate") == [(False, "escalate;eos-reward", None)]
    assert play("eos-reward;escalate") == []


def test_escalate_may_try_the_same_strategy_with_other_parameters():
    assert play("soft-landing;escalate:to=soft-landing:start=0.2") == [
        (False, "escalate:to=soft-landing:start=0.2;soft-landing:start=0.2", None)
    ]


def test_steps_that_change_other_places_add_up():
    steps = play('escalate:to=concise,to=soft-landing,to="concise:sentences=2;eos-reward"')
    assert [[item.name for item in build_strategies([text])][1:] for _, text, _ in steps] == [
        ["concise"],
        ["concise", "soft-landing"],
        ["concise", "eos-reward"],
    ]


@pytest.mark.parametrize("text", ["continue;escalate", "escalate;continue"])
def test_going_on_comes_before_starting_again(text):
    kept = [keep for keep, _, _ in play(text)]
    assert kept == [True, True, False, True, True, False, True, True]


def test_a_loop_does_not_go_on_but_may_start_again():
    repetition = Verdict(FinishReason.REPETITION)
    assert play("continue;no-loops", repetition) == []
    assert [keep for keep, _, _ in play("continue;no-loops;escalate", repetition)] == [False, False]


def test_a_row_that_gained_nothing_does_not_go_on():
    strategies = build_strategies(["continue"])
    assert follow_up([attempt(1, strategies, tokens=0)], strategies) is None
    grown = [attempt(1, strategies, tokens=10), attempt(2, strategies, tokens=10)]
    assert follow_up(grown, strategies) is None
    assert follow_up(grown[:1], strategies) is not None


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(FinishReason.EOS, EosSource.NATURAL),
        Verdict(FinishReason.EOS, EosSource.FORCED),
        Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="x"),
        Verdict(FinishReason.ERROR, error="no room"),
        Verdict(FinishReason.CANCELLED),
    ],
)
def test_an_answer_that_was_not_truncated_is_left_alone(verdict):
    strategies = build_strategies(["continue", "escalate"])
    assert follow_up([attempt(1, strategies, verdict)], strategies) is None


def test_without_such_a_strategy_a_truncated_row_stays_so():
    strategies = build_strategies(["soft-landing"])
    assert follow_up([attempt(1, strategies)], strategies) is None
