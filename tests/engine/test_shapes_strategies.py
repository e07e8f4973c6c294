"""Shapes under strategies that take answers back, go on with them, or cut them."""

import json
from pathlib import Path

import pytest

from endmark.client.engine import Engine
from endmark.jobs.vocabulary import EosSource, FinishReason
from endmark.worker.shapes.compiled import Shapes

pytestmark = pytest.mark.engine

PROMPTS = ["Describe Paris.", "Why is the sky blue?", "Name a fruit.", "Write a poem."]
NUMBERS = json.dumps({"type": "array", "items": {"type": "integer"}})  # on which the bundled model loops
FRUIT = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "kind": {"enum": ["stone fruit", "berry"]}},
        "required": ["name", "kind"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def demo():
    return Engine()


@pytest.fixture(scope="module")
def thinking():
    return Engine(str(Path(__file__).parents[2] / "examples" / "thinking_model" / "model"))


@pytest.mark.parametrize("strategy", ["rewind", "whole"])
def test_a_value_is_taken_out_of_a_loop_and_stays_one(demo, strategy):
    """The mask goes back with the answer: else what follows would be allowed by what was dropped."""
    plain = demo.generate(PROMPTS, json_schema=NUMBERS, max_new_tokens=200, temperature=0)
    found = demo.generate(PROMPTS, json_schema=NUMBERS, max_new_tokens=200, temperature=0, strategy=strategy)
    back = [item for item in found if item.rewinds]
    assert len(back) >= 2
    assert all(item.valid and isinstance(json.loads(item.text), list) for item in (*plain, *found))
    assert {item.verdict.eos_source for item in back} == {EosSource.NATURAL}, "each ends by itself then"


def test_a_value_that_was_cut_goes_on_from_where_it_stopped(demo):
    """Of a shape whose close was not found at the beginning: where the answer goes on it is found, and taken."""
    closing = demo._prompter._shapes
    demo._prompter._shapes = Shapes(demo._engine.vocabulary, demo._engine.eos_ids, closes=False)
    try:
        options = {"json_schema": FRUIT, "max_new_tokens": 24, "temperature": 0}
        cut = demo.generate(PROMPTS, **options)
        whole = demo.generate(PROMPTS, **options, strategy="continue:times=20")
    finally:
        demo._prompter._shapes = closing
    assert not any(item.valid for item in cut)
    for item, before in zip(whole, cut, strict=True):
        assert item.valid
        assert item.attempt > 1
        assert item.text.startswith(before.text)
        assert json.loads(item.text)["kind"] in ("stone fruit", "berry")


def test_with_the_close_there_is_nothing_to_go_on_with(demo):
    options = {"json_schema": FRUIT, "max_new_tokens": 30, "temperature": 0}
    for item in demo.generate(PROMPTS, **options, strategy="continue"):
        assert (item.attempt, item.valid) == (1, True)


def test_what_is_cut_as_a_loop_is_told_not_to_be_valid(demo):
    found = demo.generate(PROMPTS, json_schema=NUMBERS, max_new_tokens=200, temperature=0, strategy="no-loops")
    cut = [item for item in found if item.verdict.truncated]
    assert len(cut) >= 2
    assert all(item.valid is item.complete is False for item in cut)


@pytest.mark.parametrize("shape", [{"json_schema": FRUIT}, {"choices": "stone fruit,berry"}])
def test_the_thought_of_a_row_with_a_shape_is_free(thinking, shape):
    """Of a model that thinks: a thought is no value of the shape, and has a budget of its own."""
    options = {**shape, "temperature": 0, "strategy": "think:budget=24", "max_new_tokens": 90}
    for item in thinking.generate(PROMPTS, **options):
        assert item.valid
        assert len(item.reasoning.split()) > 5
        assert item.thought_closed is not None
        assert item.verdict.finish_reason is FinishReason.EOS
