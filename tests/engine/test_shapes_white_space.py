"""White space in JSON ends behind eight characters, whether llguidance keeps to that or we do.

vLLM wants an llguidance below 1.8, which reads our bound and lets white space go on all the same: a model that was
not trained for JSON wrote it to the end of its budget, and `endmark[vllm,shapes]` could not be installed.
"""

import json
import random

import numpy as np
import pytest

from endmark.jobs.shapes import ShapeKind, read_shape
from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes.compiled import Shapes

pytestmark = pytest.mark.engine

LONGER = (
    b"   ",
    b" \n",
    b'"   ',
    b',    "',
    b": ",
    b'{\n    "',
    b'\\"',
    b'         "',
    b'x", \t',
    b"}        ",
    b"]  ",
)
TOKENS = Vocabulary([*(bytes([value]) for value in range(256)), b"", *LONGER])
END = 256
SCHEMA = read_shape(
    ShapeKind.JSON_SCHEMA,
    json.dumps(
        {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "integer"}}, "b": {"type": "string"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        }
    ),
    "schema",
)


@pytest.fixture
def ours(monkeypatch):
    """Masks where llguidance ends no white space, whichever one is installed."""
    monkeypatch.setattr("endmark.jobs.shapes.grammar._WHITE", r"[\x20\x0A\x0D\x09]+")
    monkeypatch.setattr("endmark.worker.shapes.compiled.bounds_white_space", lambda: False)
    return Shapes(TOKENS, {END}).maker(SCHEMA)


def allowed(mask):
    return np.flatnonzero(np.unpackbits(mask.words().view(np.uint8), bitorder="little")).tolist()


def walk(mask, choose):
    """Return a whole answer, whose tokens are chosen of those that may follow."""
    text = b""
    while (token_id := choose(allowed(mask))) != END:
        text += TOKENS.bytes_of(token_id)
        mask.see(token_id)
    return text


def longest(text):
    """Return how much white space in a row stands outside of strings."""
    most = run = 0
    inside = escaped = False
    for byte in text:
        if inside:
            inside, escaped = escaped or byte != 0x22, byte == 0x5C and not escaped
        else:
            run = run + 1 if byte in b" \t\r\n" else 0
            inside, most = byte == 0x22, max(most, run)
    return most


def test_a_model_that_only_wants_white_space_writes_a_whole_value(ours):
    def choose(tokens):
        return max(tokens, key=lambda token: (TOKENS.bytes_of(token).count(b" "), token == END, -token))

    text = walk(ours((), 300), choose)
    assert set(json.loads(text)) == {"a", "b"}
    assert longest(text) == 8


def test_an_answer_that_has_begun_with_white_space_has_so_much_less_left(ours):
    mask = ours(tuple(b'{"a":[1,     '), 100)
    assert ord(" ") in allowed(mask)
    mask.see(TOKENS.token_bytes.index(b"   "))
    assert not {ord(" "), ord("\n"), TOKENS.token_bytes.index(b"   ")} & set(allowed(mask))
    assert ord("1") in allowed(mask)


@pytest.mark.parametrize("seed", range(6))
def test_the_tokens_that_may_follow_are_those_that_llguidance_with_a_bound_lets_follow(ours, seed, monkeypatch):
    monkeypatch.undo()
    pick, other = random.Random(seed), Shapes(TOKENS, {END}).maker(SCHEMA)((), 400)

    def choose(tokens):
        found = allowed(other)
        assert tokens == found
        white = [token for token in tokens if b" " in TOKENS.bytes_of(token)]
        token = pick.choice(white if white and pick.random() < 0.7 else tokens)
        if token != END:
            other.see(token)
        return token

    text = walk(ours((), 400), choose)
    assert set(json.loads(text)) == {"a", "b"}
    assert longest(text) <= 8
