"""The contract of an engine, passed by the one over vLLM on a card, with a tiny model in fp32."""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'endmark[vllm]'")

from endmark.worker.engine.text import Vocabulary
from endmark.worker.vllm.block import Block
from endmark.worker.vllm.core import VllmCore
from endmark.worker.vllm.engine import VllmEngine
from endmark.worker.vllm.loading import build_llm, engine_options
from tests.engine.conftest import SHAPE
from tests.engine_contract import CONTEXT, ROWS, EngineContract, check_told_probabilities

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # those of vLLM are its own

TOKENS = 128
ENDS = {2, 40, 41, 42}  # enough of them for some rows to end by themselves
VOCABULARY = Vocabulary(
    [b"", b"", b""] + [bytes((33 + index % 90, 33 + index // 9)) for index in range(3, TOKENS)]
)
SIZES = {
    "vocab_size": TOKENS,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


@functools.cache
def folder():
    """The model, where vLLM finds it."""
    torch.manual_seed(7)
    path = Path(tempfile.mkdtemp())
    AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, **SIZES}), dtype=torch.float32).save_pretrained(path)
    return path


@functools.cache
def core(*, roomy, cards=(1, 1)):
    """vLLM, once for all tests: it takes seconds to begin."""
    block = Block.make(ROWS, TOKENS)
    options = {
        "model": str(folder()),
        "dtype": "float32",
        "max_model_len": CONTEXT,
        "max_num_batched_tokens": 32,
        "block_size": 16,
        "num_gpu_blocks_override": 1 + (ROWS * CONTEXT // 16 if roomy else 5),
        "enforce_eager": True,
        "gpu_memory_utilization": 0.2,
        "kv_cache_memory_bytes": 1 << 28,  # nothing is measured, so that other engines may run beside it
    }
    llm, _ = build_llm(engine_options(block, ENDS, cards=cards) | options)
    block.unlink()
    return VllmCore(llm, ENDS), block


class TestVllm(EngineContract):
    count = 14

    cards = (1, 1)

    def build(self, *, roomy=True):
        return VllmEngine(*core(roomy=roomy, cards=self.cards), VOCABULARY, ENDS, embeddings=TOKENS)

    def test_the_tokens_that_rows_ask_for_have_their_probabilities(self):
        check_told_probabilities(self.build(), TOKENS)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two cards are needed")
class TestVllmOnTwoCards(TestVllm):
    """One model shared by two processes; each draws, and reads what it is to know in the block."""

    cards = (2, 1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two cards are needed")
class TestVllmInTwoStages(TestVllm):
    """The layers of one model on two cards, the last of which draws."""

    cards = (1, 2)
