"""Paged attention in plain PyTorch against itself: ways that must give the same, and what is kept of masks."""

import pytest
import torch

from endmark.worker.engine.attention import PLAIN, PagedBatch, Span, attend
from tests.engine.conftest import build_model

pytestmark = pytest.mark.engine

TOKENS, PAGE = 37, 16


def read(*, fresh, window):
    """What the tokens of one new prompt read, with two heads on each of three of keys; and its span."""
    torch.manual_seed(1)
    pool = torch.zeros(4, PAGE, 2, 3, 8)
    pages = torch.tensor([[2, 0, 3]])
    places = torch.arange(TOKENS)
    write = pages[0, places // PAGE] * PAGE + places % PAGE
    span = Span(0, 1, TOKENS, pages, places.unsqueeze(0), fresh=fresh)
    query, new = torch.randn(TOKENS, 6, 8), torch.randn(TOKENS, 2, 3, 8)
    return attend(PagedBatch([pool], write, [span]), 0, query, new, None, window), span


@pytest.mark.parametrize("window", [None, 5, TOKENS - 1, TOKENS, 100])
def test_a_fresh_prompt_reads_what_its_mask_would_let_it(window):
    assert torch.allclose(read(fresh=True, window=window)[0], read(fresh=False, window=window)[0], atol=1e-6)


@pytest.mark.parametrize("window", [None, 5])
def test_no_mask_of_a_prompt_is_kept(window):
    """Four prompts of 8,192 tokens would otherwise hold a gigabyte of masks until the last layer is done."""
    for fresh in (True, False):
        assert read(fresh=fresh, window=window)[1].masks == {}


def test_models_of_one_kind_keep_their_own_attention():
    """They shared a config: behind one with eager attention another's engine ran without pages."""
    paged = build_model("llama")
    build_model("llama", attention="eager")
    assert paged.config._attn_implementation == PLAIN
