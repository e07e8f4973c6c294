"""Recorded steps outlive those of an engine that goes."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.replay import Recorder

pytestmark = pytest.mark.gpu


def recorded(recorder, seed):
    """A product whose sums are cut into parts, for which cuBLAS needs a workspace, and what runs it again."""
    generator = torch.Generator("cuda").manual_seed(seed)
    x, weight = (torch.randn(64, 65536, generator=generator, device="cuda").bfloat16() for _ in range(2))
    out = torch.zeros(64, 64, dtype=torch.bfloat16, device="cuda")
    return out, recorder.record(lambda: torch.mm(x, weight.T, out=out)), torch.mm(x, weight.T)


def test_steps_go_on_when_those_of_another_engine_are_collected():
    """torch captures on one stream for all, and any graph that goes took the workspace of the others with it."""
    gone, goes_on = (recorded(Recorder(torch.device("cuda")), seed) for seed in range(2))
    out, replay, want = goes_on
    gone[1]()
    del gone
    torch.cuda.empty_cache()
    rest = [torch.full((32 << 20,), 0xFF, dtype=torch.uint8, device="cuda") for _ in range(8)]
    for _ in range(3):
        out.zero_()
        replay()
        torch.cuda.synchronize()
        assert torch.equal(out, want)
    assert all(bool((block == 0xFF).all()) for block in rest)
