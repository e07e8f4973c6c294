"""The contract of an engine, passed by ours over a scripted runner: in step with it, and a step behind."""

import random

import pytest

from endmark.worker.engine.engine import Engine
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from tests.engine_contract import CONTEXT, ROWS, EngineContract

pytestmark = pytest.mark.unit

EOS = 2
VOCABULARY = Vocabulary([b"", b"", b""] + [bytes((33 + index % 90, 33 + index // 9)) for index in range(3, 120)])


def script(tokens):
    """The next token and the EOS probability depend on every token before."""
    rng = random.Random(hash(tuple(tokens)))
    token = EOS if rng.random() < 0.07 else rng.randrange(3, 120)
    others = {other: -1.0 - other for other in range(3, 9)}
    return Sampled(token, rng.random(), rng.randrange(9), log_probs={**others, token: -0.5})


class TestScripted(EngineContract):
    overlaps = False

    def build(self, *, roomy=True):
        runner = ScriptedRunner(
            script,
            num_pages=ROWS * CONTEXT // 4 if roomy else 18,
            page_size=4,
            max_rows=ROWS,
            context=CONTEXT,
            piece_tokens=16,
            overlaps=self.overlaps,
            eos_ids={EOS},
        )
        return Engine(runner, VOCABULARY, {EOS}, embeddings=120)


class TestScriptedBehind(TestScripted):
    overlaps = True
