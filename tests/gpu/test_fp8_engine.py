"""Engines with weights in fp8 on a card that has the type."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.fp8 import CAPABILITY
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < CAPABILITY,
        reason="no card that has fp8",
    ),
]


def answers(weights, kv_cache, count=12):
    """The bundled model's greedy answers, and what its engine says that its weights are."""
    loaded = load_engine("demo", device="cuda", weights=weights, kv_cache=kv_cache)
    for key in range(count):
        loaded.engine.add(Request(key=key, prompt_token_ids=tuple(range(40 + key, 60 + key)), max_new_tokens=24))
    found = {}
    while loaded.engine.has_work:
        found.update({item.key: tuple(item.token_ids) for item in loaded.engine.step()})
    return [found[key] for key in range(count)], loaded.description.weights


@pytest.mark.parametrize("kv_cache", ["auto", "fp8"])
@pytest.mark.parametrize("weights", ["fp8", "fp8-original"])
def test_an_engine_in_fp8_answers_nearly_as_one_in_16_bits(weights, kv_cache):
    """Prefill and decode steps, which are graphs, through the loader as a worker has them."""
    usual, _ = answers("expanded", "auto")
    got, said = answers(weights, kv_cache)
    assert said == (f"{weights}, fp8 cache" if kv_cache == "fp8" else weights)
    assert got == answers(weights, kv_cache)[0]
    assert sum(some[0] == other[0] for some, other in zip(got, usual, strict=True)) >= len(usual) * 2 // 3
