"""Token healing with shapes, and on the bundled model: what was cut off is written again, then the value."""

import json

import pytest

from endmark.client.engine import Engine
from endmark.jobs.shapes import Shape, ShapeKind
from endmark.jobs.shapes.validity import is_valid
from endmark.jobs.vocabulary import EosSource
from endmark.worker.engine.masks import allowed
from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes.compiled import Shapes

pytestmark = pytest.mark.engine

END = 256
BYTES = Vocabulary([*(bytes([value]) for value in range(256)), b""])
SHAPES = {
    "json_schema": json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
    "regex": "[a-c]{2,5}",
    "choices": '["yes", "no \\"x\\""]',
    "grammar": 'start: "<" word ">"\nword: /[0-9]{1,4}/',
}


@pytest.fixture(scope="module")
def demo():
    return Engine()


@pytest.mark.parametrize("begun", [" ", "é\\", 'say "', "{"])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_stands_behind_what_was_cut_off(kind, begun):
    """The last of what may follow is taken at each step, in a budget of three more than the shortest answer."""
    shape = Shape(ShapeKind(kind), SHAPES[kind])
    shapes = Shapes(BYTES, {END})
    mask = shapes.maker(shape, begun)((), len(begun.encode()) + shapes.fewest_tokens(shape) + 3)
    data = b""
    while (bits := allowed(mask.words(), 257)).any():
        if mask.surplus:
            data = data[: len(data) - mask.surplus]
            mask.give_back()
            continue
        token_id = int(bits.nonzero()[0][-1])
        if token_id == END:
            break
        data += bytes([token_id])
        mask.see(token_id)
    assert mask.refusal == ""
    assert data.decode().startswith(begun)
    assert is_valid(shape, data.decode().removeprefix(begun))


def test_the_budget_that_is_named_counts_what_is_written_again():
    (mask,) = (Shapes(BYTES, {END}).maker(Shape(ShapeKind.REGEX, "abc"), "xy")((), 5),)
    mask.words()
    assert "takes 6 tokens" in mask.refusal


def test_an_answer_goes_on_inside_the_last_word(demo):
    prompts = ["The capital of Fra", "Why is the sk", "A poem: "]
    plain = demo.generate(prompts, raw=True, max_new_tokens=4, temperature=0)
    healed = demo.generate(prompts, raw=True, max_new_tokens=4, temperature=0, token_healing=True)
    shorter = [one.prompt_tokens - other.prompt_tokens for one, other in zip(plain, healed, strict=True)]
    assert all(0 <= count <= 4 for count in shorter)
    assert any(shorter)
    for prompt, item, count in zip(prompts, healed, shorter, strict=True):
        begun = demo._prompter._shapes._vocabulary.text_of(
            demo._prompter._tokenizer(prompt)["input_ids"][-count:] if count else []
        )
        assert prompt.endswith(begun)
        assert item.verdict.error is None


def test_with_a_shape_the_answer_is_valid(demo):
    options = {"raw": True, "temperature": 0, "token_healing": True, "max_new_tokens": 30}
    (number,) = demo.generate(["How many? "], regex="[0-9]{1,3}", **options)
    assert (number.valid, number.text.isdigit()) == (True, True)
    (label,) = demo.generate(["Yes or no? "], choices=["yes", "no"], **options)
    assert label.text in ("yes", "no")
    assert label.valid
    (value,) = demo.generate(["As JSON: "], json_schema=SHAPES["json_schema"], **options)
    assert value.valid
    assert value.verdict.eos_source in (EosSource.NATURAL, EosSource.FORCED)
