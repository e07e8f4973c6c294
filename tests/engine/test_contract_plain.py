"""The contract of an engine, passed by ours over the plain runner and a tiny random model."""

import functools

import pytest

from endmark.worker.engine.engine import Engine
from endmark.worker.engine.plain_runner import PlainRunner
from endmark.worker.engine.text import Vocabulary
from tests.engine.conftest import SHAPE, build_model
from tests.engine_contract import CONTEXT, ROWS, EngineContract

pytestmark = pytest.mark.engine

VOCABULARY = Vocabulary([b"", b"", b""] + [bytes((33 + index % 90, 33 + index // 9)) for index in range(3, 384)])
ENDS = {2, *range(40, 60)}  # enough of them for some rows to end by themselves

model = functools.cache(build_model)


class TestPlain(EngineContract):
    def build(self, *, roomy=True):
        runner = PlainRunner(
            model("llama"),
            ENDS,
            num_pages=ROWS * CONTEXT // 4 if roomy else 18,
            page_size=4,
            max_rows=ROWS,
            prefill_tokens=128,
            context=CONTEXT,
        )
        runner.piece_tokens = 16  # fewer tokens than most prompts have
        return Engine(runner, VOCABULARY, ENDS, embeddings=SHAPE["vocab_size"])
