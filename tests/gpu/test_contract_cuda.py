"""The contract of an engine, passed by ours on CUDA: captured graphs, the host a step behind."""

import functools

import pytest

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.attention import PLAIN
from endmark.worker.engine.cuda.fusion import fuse
from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.engine import Engine
from tests.engine.test_contract_plain import ENDS, VOCABULARY
from tests.engine_contract import CONTEXT, ROWS, EngineContract
from tests.gpu.test_runner import build_model

pytestmark = pytest.mark.gpu


@functools.cache
def model():
    network = build_model("llama-64", PLAIN)
    return network, fuse(network)


class TestCuda(EngineContract):
    def build(self, *, roomy=True):
        network, fused = model()
        runner = CudaRunner(
            network,
            ENDS,
            num_pages=ROWS * CONTEXT // 16 if roomy else 8,
            page_size=16,
            max_rows=ROWS,
            prefill_tokens=128,
            context=CONTEXT,
            fused=fused,
        )
        return Engine(runner, VOCABULARY, ENDS, embeddings=384)
