"""The registry: names, parameters and what does not combine, all checked without torch."""

import subprocess
import sys

import pytest

from endmark.jobs.errors import SpecError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import (
    REGISTRY,
    Place,
    amend_prompt,
    build_strategies,
    score_numbers,
    write_strategies,
)
from endmark.jobs.strategies.eos_reward import EosReward

pytestmark = pytest.mark.unit

TABLE = {
    "baseline": Place.NOWHERE,
    "eos-reward": Place.SCORES,
    "eos-reward-published": Place.SCORES,
    "deadline": Place.SCORES,
    "soft-landing": Place.SCORES,
    "exp-decay": Place.SCORES,
    "stop": Place.TOKEN,
    "concise": Place.PROMPT,
    "no-loops": Place.TOKEN,
    "rewind": Place.TOKEN,
    "whole": Place.ALL,
    "trim": Place.AFTER,
    "think": Place.THOUGHT,
    "continue": Place.AFTER,
    "escalate": Place.AFTER,
}

REFUSED = {
    "eos-reward:start=1.2": "`eos-reward:start=1.2`: must be at least 0 and at most 1",
    "eos-reward:start=-0.1": "must be at least 0 and at most 1",
    "eos-reward:start=nan": "must be at least 0 and at most 1",
    "eos-reward:margin=inf": "must be at least 0",
    "soft-landing:start=2": "must be at least 0 and at most 1",
    "soft-landing:start=0.9,firm=0.8": "start=0.9 must be below firm=0.8",
    "soft-landing:start=1": "start=1 must be below firm=1",
    "soft-landing:start=1,firm=1": "start=1 must be below firm=1",
    "exp-decay:factor=0.9": "must be at least 1",
    "exp-decay:start_token=-3": "must be at least 0",
    "concise:sentences=0": "must be at least 1",
    "concise:sentences=1.5": "expected a whole number",
    "concise:text=": "`text` is empty",
    "concise:text=Short.,sentences=2": "give `sentences` or `text`, not both",
    "no-loops:times=1": "must be at least 2",
    "no-loops:tokens=8": "must be at least 16",
    "continue:times=0": "must be at least 1",
    "continue:max_new_tokens=0": "must be at least 1",
    "escalate:to=continue": "cannot go to `continue`",
    "escalate:to=baseline": "cannot go to `baseline`",
    "escalate:to=": "cannot go to `baseline`",
    "escalate:to=soft-landing:start=3": "must be at least 0 and at most 1",
    "stop:tokens=-5": "not a sequence of token ids",
    "eos-reward:begin=0.5": "has no parameter `begin`",
    "eos-rewrd": "unknown strategy `eos-rewrd`",
    "eos-reward;soft-landing": "`eos-reward` and `soft-landing` all change the scores",
    "concise;concise:sentences=2": "`concise` is given twice",
    "eos-reward:start=0.5,start=0.6": "`start` is given twice",
}


@pytest.mark.parametrize("text", list(REFUSED))
def test_what_is_refused(text):
    with pytest.raises(SpecError) as refusal:
        build_strategies([text])
    assert REFUSED[text] in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "near"), [("eos-rewrd", "eos-reward"), ("softlanding", "soft-landing"), ("contine", "continue")]
)
def test_an_unknown_name_comes_with_the_nearest(text, near):
    with pytest.raises(SpecError) as refusal:
        build_strategies([text])
    assert refusal.value.hint == f"did you mean `{near}`?"


def test_values_are_checked_in_code_too():
    with pytest.raises(SpecError, match="must be at least 0 and at most 1"):
        EosReward({"start": 1.5})


def test_every_strategy_of_the_table():
    assert {name: found.place for name, found in REGISTRY.items()} == TABLE
    for found in REGISTRY.values():
        assert found.summary
        assert found.why
        assert all(parameter.help for parameter in found.declared)


@pytest.mark.parametrize(("budget", "ratio"), [(100, 0.8), (10, 0.8), (7, 5 / 7), (1, 0.0)])
def test_the_published_one_takes_the_share_of_whole_tokens(budget, ratio):
    """As the article computes it: `int(0.8 * max_length) / max_length`."""
    assert score_numbers(build_strategies(["eos-reward-published"]), budget).ratio == ratio


def test_the_published_one_says_what_is_wrong_with_it():
    assert "wrong: at every step from the first" in REGISTRY["eos-reward-published"].summary


@pytest.mark.parametrize("name", [name for name in TABLE if name != "stop"])
def test_defaults_are_allowed_and_written_back(name):
    built = build_strategies([name])
    assert build_strategies([write_strategies(built)]) == built


def test_a_composition_survives_the_store():
    texts = [
        "concise:sentences=3",
        "soft-landing:start=0.7,firm=0.9",
        r'stop:text="\n\n###",text=";",tokens=13-13',
        'escalate:to="eos-reward:start=0.5",to="stop:text=\\"a;b\\""',
        "continue:times=1,max_new_tokens=64",
        "no-loops",
    ]
    spec = GenerationSpec(strategies=build_strategies(texts))
    again = GenerationSpec.from_json(spec.to_json())
    assert again == spec
    assert [strategy.name for strategy in again.strategies] == [
        "concise",
        "soft-landing",
        "stop",
        "escalate",
        "continue",
        "no-loops",
    ]
    stop = again.strategies[2]
    assert stop.parameters == {"text": ("\n\n###", ";"), "tokens": ("13-13",), "scope": "answer"}


def test_a_budget_below_one_is_refused():
    with pytest.raises(SpecError, match="max_new_tokens"):
        GenerationSpec(max_new_tokens=0)


def test_the_firm_stretch_follows_a_late_start():
    """`soft-landing:start=0.85` alone was once refused, `firm` being 0.8 by default."""
    shares = {
        text: (numbers.start, numbers.full)
        for text in ("soft-landing", "soft-landing:start=0.7", "soft-landing:start=0.9")
        for numbers in [score_numbers(build_strategies([text]), 100)]
    }
    assert shares == {
        "soft-landing": (60, 80),
        "soft-landing:start=0.7": (70, 80),
        "soft-landing:start=0.9": (90, 95),
    }


@pytest.mark.parametrize(
    ("text", "start"),
    [("exp-decay", 50), ("exp-decay:start=0", 0), ("exp-decay:start_token=0", 0), ("exp-decay:start_token=7", 7)],
)
def test_the_start_in_tokens_comes_before_the_share(text, start):
    assert score_numbers(build_strategies([text]), 100).start == start


def test_the_prompt_gets_its_instruction():
    assert amend_prompt(build_strategies(["concise"]), "Why?\n") == "Why? Answer in at most five sentences."
    assert amend_prompt(build_strategies(["concise:sentences=1"]), "Why?").endswith("at most one sentence.")
    assert amend_prompt(build_strategies(["concise:sentences=12"]), "Why?").endswith("at most 12 sentences.")
    assert amend_prompt(build_strategies(["concise:text=Be brief!", "stop:text=x"]), "Why?") == "Why? Be brief!"
    assert amend_prompt(build_strategies(["soft-landing"]), "Why?\n") == "Why?\n"


def test_rows_without_a_score_strategy_cost_nothing():
    for text in ("baseline", "concise;continue;no-loops", "stop:text=x;escalate"):
        assert score_numbers(build_strategies([text]), 100).is_neutral
    for name, place in TABLE.items():
        if place is Place.SCORES:
            assert not score_numbers(build_strategies([name]), 100).is_neutral


def test_checking_needs_no_torch():
    code = (
        "import sys; from endmark.jobs.spec import GenerationSpec;"
        "from endmark.jobs.strategies import build_strategies;"
        "GenerationSpec(strategies=build_strategies(['soft-landing','stop:text=x','escalate']));"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers', 'click')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
