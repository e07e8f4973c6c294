"""The contract of an engine, passed by ours on CUDA; `TRITON_INTERPRET=1` runs a few rows of it on a CPU."""

import functools
import os

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.attention import PAGED
from endmark.worker.engine.cuda.fusion import fuse
from endmark.worker.engine.cuda.kernels import decode_attention
from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.text import Vocabulary
from tests.engine.conftest import SHAPE
from tests.engine_contract import CONTEXT, ROWS, EngineContract, check_told_probabilities

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TOKENS = 128
ENDS = {2, 40, 41, 42}  # enough of them for some rows to end by themselves
VOCABULARY = Vocabulary(
    [b"", b"", b""] + [bytes((33 + index % 90, 33 + index // 9)) for index in range(3, TOKENS)]
)
SMALL = {
    "vocab_size": TOKENS,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


@functools.cache
def network():
    """A model for all tests, and what `fuse` has done to it."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(**{**SHAPE, **SMALL}), attn_implementation=PAGED, dtype=torch.float32
    ).eval()
    model = model if INTERPRETED else model.cuda()
    return model, fuse(model)


class TestCuda(EngineContract):
    count = 7 if INTERPRETED else 40
    budget = 8 if INTERPRETED else 24

    @pytest.fixture(autouse=True)
    def _few_programs(self, monkeypatch):
        """The interpreter takes milliseconds for each program: a row's keys are not cut into pieces for it."""
        if INTERPRETED:
            monkeypatch.setattr(decode_attention, "_PROGRAMS", 1)

    def build(self, *, roomy=True):
        model, fused = network()
        runner = CudaRunner(
            model,
            ENDS,
            num_pages=ROWS * CONTEXT // 16 if roomy else 5,
            page_size=16,
            max_rows=ROWS,
            prefill_tokens=128,
            piece_tokens=32,
            context=CONTEXT,
            fused=fused,
        )
        return Engine(runner, VOCABULARY, ENDS, embeddings=TOKENS)

    def test_the_tokens_that_rows_ask_for_have_their_probabilities(self):
        check_told_probabilities(self.build(), TOKENS)
