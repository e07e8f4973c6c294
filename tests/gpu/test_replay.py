"""Recorded steps keep what they read, and outlive those of an engine that goes."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.replay import Recorder

pytestmark = pytest.mark.gpu


def recorded(recorder, seed):
    """A product whose sums are cut into parts, for which cuBLAS needs a workspace, and what runs it again.

    Only what it writes is handed out: all else is kept by what runs it again.
    """
    generator = torch.Generator("cuda").manual_seed(seed)
    x, weight = (torch.randn(64, 65536, generator=generator, device="cuda").bfloat16() for _ in range(2))
    small = torch.full((8,), seed, dtype=torch.int64, device="cuda")
    out = torch.zeros(64, 64, dtype=torch.bfloat16, device="cuda")

    def step():
        small.add_(1)
        torch.mm(x, weight.T, out=out)

    return out, recorder.record(step), torch.mm(x, weight.T)


def assert_unharmed(out, replay, want):
    """Run a step again beside those who have taken the memory, in small and large pieces, that nobody held."""
    torch.cuda.empty_cache()
    rest = [torch.full((size,), 0x7F, dtype=torch.uint8, device="cuda") for size in (64, 512, 32 << 20) * 8]
    for _ in range(3):
        out.zero_()
        replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(out, want, rtol=2e-2, atol=1.0)
    assert all(bool((block == 0x7F).all()) for block in rest)


def test_a_recorded_step_keeps_what_it_reads():
    """Decode steps let go of their inputs' tokens and places: each wrote them into what had been put there since.

    Tables of captured steps with prompts stood there, and runs ended by an illegal memory access.
    """
    assert_unharmed(*recorded(Recorder(torch.device("cuda")), 0))


def test_steps_go_on_when_those_of_another_engine_are_collected():
    """torch captures on one stream for all, and any graph that goes took the workspace of the others with it."""
    gone, stays = (recorded(Recorder(torch.device("cuda")), seed) for seed in range(2))
    gone[1]()
    del gone
    assert_unharmed(*stays)
