"""A text scored by the kernels against the model that they run; `TRITON_INTERPRET=1` runs it on a CPU."""

import copy
import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.cuda.scoring import score_text
from tests.engine.conftest import build_model

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


def test_every_token_has_the_models_own_logits():
    """benchmarks/accuracy.py did this with the insides of a runner, and failed when one of them was renamed."""
    network = build_model("llama", "eager").to(DEVICE)
    tokens = list(range(3, 40))  # three pages, the last one in part
    with torch.inference_mode():
        want = copy.deepcopy(network)(torch.tensor([tokens], device=DEVICE), use_cache=False).logits[0]
    runner = CudaRunner(
        network,
        {2},
        num_pages=4,
        page_size=16,
        max_rows=1,
        prefill_tokens=64,
        piece_tokens=32,
        context=64,
    )
    for _ in range(2):
        got = score_text(runner, tokens, DEVICE)
        assert ((got - want).norm() / want.norm()).item() < 1e-4
