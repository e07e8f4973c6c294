"""A model over two cards whose second process is killed: the engine says at once that it has died."""

import os
import signal
from time import monotonic

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'endmark[vllm]'")

from endmark.worker.engine.request import Request
from endmark.worker.vllm.engine import VllmEngine
from tests.engine_contract import CONTEXT, run
from tests.gpu.test_contract_vllm import ENDS, TOKENS, VOCABULARY, core

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # those of vLLM are its own

PATIENCE = 30.0  # seconds; a worker's own watchdog would take minutes


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two cards are needed")
def test_a_step_fails_when_a_process_of_the_model_is_killed():
    """The worker ends then, as tests/integration/test_engine_vllm.py has it with a stand-in, and loses no row."""
    built = core.__wrapped__(roomy=True, cards=(2, 1))  # an engine of its own, for no other test can use it then
    engine = VllmEngine(*built, VOCABULARY, ENDS, embeddings=TOKENS)
    for key in range(60):
        engine.add(Request(key, [3 + key % 7, 5, 7], max_new_tokens=CONTEXT - 8, stream=key))
    for _ in range(4):
        engine.step()
    second = engine.core._llm.engine_core.engine_core.model_executor.workers[1]
    os.kill(second.proc.pid, signal.SIGKILL)
    started = monotonic()
    with pytest.raises(RuntimeError, match="vLLM's engine has died"):
        run(engine, [])
    assert monotonic() - started < PATIENCE
