"""The close: a value is whole inside its budget, whatever the model would write."""

import json
import random

import numpy as np
import pytest

from benchmarks.random_schemas import random_schema
from endmark.client.engine import Engine
from endmark.jobs.errors import SpecError
from endmark.jobs.shapes import Shape, ShapeKind, read_shape
from endmark.jobs.shapes.grammar import grammar_of
from endmark.jobs.shapes.matching import accepts, byte_matcher
from endmark.jobs.shapes.validity import is_valid
from endmark.jobs.vocabulary import EosSource, FinishReason
from endmark.worker.engine.engine import Engine as ServingEngine
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes.closing import Closer, Grammar
from endmark.worker.shapes.compiled import Shapes

pytestmark = pytest.mark.engine

END = 256
BYTES = Vocabulary([*(bytes([byte]) for byte in range(256)), b""])
NESTED = {
    "type": "object",
    "properties": {
        "a": {
            "type": "object",
            "properties": {"long_name": {"type": "string"}},
            "required": ["long_name"],
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def demo():
    return Engine()


def schema(value):
    return Shape(ShapeKind.JSON_SCHEMA, json.dumps(value))


def drawn(shape, budget, wanted):
    """Draw the wanted bytes while the mask lets them follow, then the first that it does; return text and mask."""
    mask = Shapes(BYTES, {END}).maker(shape)((), budget)
    text = b""
    while True:
        bits = np.unpackbits(mask.words().view(np.uint8), bitorder="little")
        if mask.surplus:
            text = text[: len(text) - mask.surplus]
            mask.give_back()
            continue
        if bits[END]:
            return text, mask
        next_one = (
            wanted[len(text)] if len(text) < len(wanted) and bits[wanted[len(text)]] else bits[:END].argmax()
        )
        text += bytes([next_one])
        mask.see(int(next_one))


def test_a_token_behind_which_no_way_is_short_enough_is_given_back():
    """A quote opens a property whose value takes more than is left."""
    text, mask = drawn(schema(NESTED), 9, b'{"a":{')
    assert (text, mask.closes) == (b"{}", True)
    text, mask = drawn(schema(NESTED), 60, b'{"a":{"long_name":"xyz"}}')
    assert (text, mask.closes) == (b'{"a":{"long_name":"xyz"}}', False)


@pytest.mark.parametrize("budget", range(3, 40))
def test_every_budget_from_the_shortest_value_upwards_is_enough(budget):
    shape = schema(NESTED)
    text, _ = drawn(shape, budget, b'{ "a" : { "long_name" : "' + b"x" * 40)
    assert len(text) < budget
    assert accepts(grammar_of(shape), text)


def test_a_budget_that_is_too_small_is_refused_with_the_number_that_is_needed(demo):
    shape = {"enum": ["a rather long label"]}
    (refused,) = demo.generate(["Hi"], json_schema=shape, max_new_tokens=3)
    assert refused.verdict.finish_reason is FinishReason.ERROR
    need = int(refused.verdict.error.split(" takes ")[1].split()[0])
    assert "3 are left for it: raise `max_new_tokens`" in refused.verdict.error
    (least,) = demo.generate(["Hi"], json_schema=shape, max_new_tokens=need)
    assert (least.valid, least.verdict.eos_source, least.completion_tokens) == (True, EosSource.FORCED, need - 1)
    (less,) = demo.generate(["Hi"], json_schema=shape, max_new_tokens=need - 1)
    assert less.verdict.finish_reason is FinishReason.ERROR


@pytest.mark.parametrize(
    ("kind", "text", "shortest"),
    [
        ("json_schema", {"type": "object"}, b"{}"),
        ("json_schema", {"type": "array", "items": {"enum": ["long", "no"]}, "minItems": 2}, b'["no","no"]'),
        ("json_schema", {"type": "string", "pattern": "^[a-z]+( [a-z]+){2}$"}, b'"a a a"'),
        (
            "json_schema",
            {"anyOf": [{"type": "string", "minLength": 9}, {"type": "integer", "minimum": 100}]},
            b"100",
        ),
        ("regex", "x1aaaaaaaa|y1b|z1cc", b"y1b"),
        ("regex", "[a-z]{3,9} [0-9]{2}", b"aaa 00"),
        ("grammar", 'start: e\ne: /[0-9]/ | "(" e "+" e ")"', b"0"),
    ],
)
def test_the_shortest_way_from_the_beginning(kind, text, shortest):
    shape = Shape(ShapeKind(kind), text if isinstance(text, str) else json.dumps(text))
    way = Closer(BYTES, {END}).shortest(byte_matcher(grammar_of(shape)), Grammar(kind == "json_schema"))
    assert way.data == shortest


def test_a_way_takes_the_fewest_tokens():
    closer = Closer(Vocabulary([b"a", b"b", b"ab", b"aba", b"bab", b""]), {5})
    assert closer.tokens(b"ababab") == (3, 4)
    assert closer.tokens(b"") == ()
    assert closer.tokens(b"abc") is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_random_schemas_and_budgets_give_whole_values(demo, temperature):
    """`benchmarks/shapes.py` does the same with hundreds, and shows the share without the close."""
    rng = random.Random(7)
    shapes = Shapes(demo._engine.vocabulary, demo._engine.eos_ids)
    rows = []
    while len(rows) < 24:
        value = random_schema(rng)
        try:
            fewest = shapes.fewest_tokens(read_shape(ShapeKind.JSON_SCHEMA, json.dumps(value), "schema"))
        except SpecError:
            continue  # it has no value
        rows.append(
            {"prompt": "Hi", "json_schema": value, "max_new_tokens": fewest + rng.choice((0, 1, 3, 9, 30))}
        )
    answers = demo.generate(rows, temperature=temperature, seed=3)
    assert [(answer.text, answer.verdict) for answer in answers if not answer.valid] == []
    assert any(answer.verdict.eos_source is EosSource.FORCED for answer in answers)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_values_are_whole_where_rows_are_preempted_and_steps_run_ahead(overlaps, seed):
    """Rows that a lack of pages sends back begin their masks anew, some with a token in flight."""
    rng = random.Random(seed)
    shapes = Shapes(BYTES, {END})
    kept: dict[int, Shape] = {}
    requests = []
    for key in range(24):
        budget, mask = rng.randrange(20, 60), None
        if key % 3:
            kept[key] = shape = schema(
                rng.choice((NESTED, {"type": "array", "items": {"enum": ["ja", "nein", 7]}}))
            )
            budget, mask = budget + (shapes.fewest_tokens(shape) or 0) - 20, shapes.maker(shape)
        prompt = [rng.randrange(32, 127) for _ in range(rng.randrange(1, 30))]
        requests.append(Request(key=key, prompt_token_ids=prompt, max_new_tokens=budget, mask=mask))

    def script(tokens):
        return random.Random(str((seed, tokens[-9:], len(tokens)))).choice(b'{}[]",: ajnein7long_m')

    runner = ScriptedRunner(script, num_pages=40, overlaps=overlaps, eos_ids={END})
    engine = ServingEngine(runner, BYTES, {END})
    for request in requests:
        engine.add(request)
    done = {}
    while engine.has_work:
        done.update((finished.key, finished) for finished in engine.step())
    assert engine.preemptions
    assert len(done) == len(requests)
    wrong = [(done[key].text, done[key].verdict) for key in kept if not is_valid(kept[key], done[key].text)]
    assert wrong == []
    assert all(done[key].verdict.finish_reason is FinishReason.LENGTH for key in range(0, 24, 3))
