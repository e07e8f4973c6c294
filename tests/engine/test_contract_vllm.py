"""The contract of an engine, passed by the one over vLLM, over a stand-in that computes a tiny model."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from endmark.worker.engine.text import Vocabulary
from endmark.worker.vllm.block import Block
from endmark.worker.vllm.core import VllmCore
from endmark.worker.vllm.engine import VllmEngine
from endmark.worker.vllm.loading import build_llm, engine_options
from tests.engine.conftest import SHAPE, build_model
from tests.engine_contract import CONTEXT, ROWS, EngineContract, check_told_probabilities, run

pytestmark = pytest.mark.engine

PACKAGE = Path(__file__).parents[1] / "fakes" / "vllm_package"
VOCABULARY = Vocabulary([b"", b"", b""] + [bytes((33 + index % 90, 33 + index // 9)) for index in range(3, 384)])
ENDS = {2, *range(40, 60)}  # enough of them for some rows to end by themselves


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model, where vLLM finds it."""
    path = tmp_path_factory.mktemp("model")
    build_model("llama", "sdpa").save_pretrained(path)
    return path


class TestVllm(EngineContract):
    options: ClassVar[dict] = {}
    told: ClassVar[dict] = {}

    @pytest.fixture(autouse=True)
    def _installed(self, folder, monkeypatch):
        monkeypatch.syspath_prepend(str(PACKAGE))
        monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)  # who builds an engine says it
        self.folder = str(folder)

    def build(self, *, roomy=True):
        block = Block.make(ROWS, SHAPE["vocab_size"])
        llm, weight_bytes = build_llm(
            engine_options(block, ENDS, **self.told)
            | {
                "model": self.folder,
                "max_model_len": CONTEXT,
                "max_num_batched_tokens": 32,
                "block_size": 4,
                "num_gpu_blocks_override": 1 + (ROWS * CONTEXT // 4 if roomy else 18),
            }
            | self.options
        )
        assert weight_bytes > 0
        block.unlink()
        return VllmEngine(VllmCore(llm, ENDS), block, VOCABULARY, ENDS, embeddings=SHAPE["vocab_size"])

    def test_rows_that_are_sent_back_are_counted(self):
        counted = []
        for roomy in (True, False):
            engine = self.build(roomy=roomy)
            run(engine, self.requests(2))
            counted.append(engine.preemptions)
        assert counted[0] == 0 < counted[1]

    def test_the_tokens_that_rows_ask_for_have_their_probabilities(self):
        check_told_probabilities(self.build(), SHAPE["vocab_size"])


class TestVllmElsewhere(TestVllm):
    """A model in processes of its own: what a draw is to know stands in the block before the step."""

    options: ClassVar[dict] = {"async_scheduling": False, "tensor_parallel_size": 2}


class TestVllmInStages(TestVllm):
    """Layers on two cards: rows under way miss a step, and come again with what was computed of them."""

    options: ClassVar[dict] = {"async_scheduling": False, "pipeline_parallel_size": 2}


class TestVllmOnOtherHosts(TestVllm):
    """A model over several hosts: the processors have blocks of their own, and all that passes can be pickled."""

    told: ClassVar[dict] = {"cards": (2, 1), "executor": "ray"}

    def test_no_memory_is_shared(self):
        engine = self.build()
        (draw,) = engine.core._llm._runner.input_batch.logitsprocs.all
        assert not np.shares_memory(draw._block.memory, engine._block.memory)
