"""Paged attention in plain PyTorch against itself: ways that must give the same, and what is kept of masks."""

import math

import pytest
import torch

from endmark.jobs.errors import ModelError
from endmark.worker.engine.attention import PLAIN, PagedBatch, Span, attend, paged_attention
from endmark.worker.engine.last_layer import KeysWritten
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


HEADS, KV_HEADS, SIZE = 6, 2, 4


class Rows:
    """Rows whose keys and values stand in pages of four, some of them computed before; the pages in no order."""

    def __init__(self, *lengths, queries=1):
        """Rows of so many tokens, of which the last are new."""
        generator = torch.Generator().manual_seed(3)
        self.lengths, self.queries = lengths, queries
        width = max(-(-length // 4) for length in lengths) + 1
        order = torch.randperm(width * len(lengths), generator=generator)
        self.pages = order.view(len(lengths), width)
        self.known = torch.randn(len(lengths), max(lengths), 2, KV_HEADS, SIZE, generator=generator)
        self.pool = torch.full((len(order), 4, 2, KV_HEADS, SIZE), 9.0)
        for row, length in enumerate(lengths):
            for at in range(length - queries):
                self.pool[self.pages[row, at // 4], at % 4] = self.known[row, at]
        new = [(row, at) for row, length in enumerate(lengths) for at in range(length - queries, length)]
        self.new = torch.stack([self.known[row, at] for row, at in new])
        self.write = torch.tensor([int(self.pages[row, at // 4]) * 4 + at % 4 for row, at in new])
        self.query = torch.randn(len(new), HEADS, SIZE, generator=generator)
        self.positions = torch.tensor([at for _, at in new]).view(len(lengths), queries)

    def span(self, begin=0, **options):
        used = -(-max(self.lengths) // 4)
        return Span(begin, len(self.lengths), self.queries, self.pages[:, :used], self.positions, **options)

    def expected(self, scaling=None, window=None, softcap=None):
        """What each new token reads: its row's tokens up to itself, one after another, in fp64."""
        out = []
        for index, query in enumerate(self.query):
            row, at = index // self.queries, int(self.positions.flatten()[index])
            first = 0 if window is None else max(0, at - window + 1)
            seen = self.known[row, first : at + 1].double()
            for head in range(HEADS):
                keys, values = seen[:, :, head * KV_HEADS // HEADS].unbind(1)
                scores = keys @ query[head].double() * (scaling or 1 / math.sqrt(SIZE))
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                out.append(scores.softmax(0) @ values)
        return torch.stack(out).view(-1, HEADS, SIZE).float()


@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("window", [None, 1, 3, 7, 30])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize(("lengths", "queries"), [((5, 1, 13, 12), 1), ((9, 14), 3), ((7,), 7), ((8, 5), 5)])
def test_each_token_reads_its_own_row_up_to_itself(lengths, queries, scaling, window, softcap):
    rows = Rows(*lengths, queries=queries)
    span = rows.span(fresh=lengths == (7,))
    for _ in range(2):  # layers share a mask, and write their own keys
        got = attend(
            PagedBatch([rows.pool], rows.write, [span]), 0, rows.query, rows.new, scaling, window, softcap
        )
        assert torch.allclose(got, rows.expected(scaling, window, softcap), atol=1e-5)
    assert len(span.masks) == (queries == 1)


def test_spans_of_a_step_stand_side_by_side_in_their_layer_s_pages():
    first, second = Rows(5, 1, 9), Rows(11, 7, queries=4)
    count = len(first.pool)
    pool = torch.cat([first.pool, second.pool])
    second.pages = second.pages + count
    write = torch.cat([first.write, second.write + 4 * count])
    untouched = torch.zeros_like(pool)
    step = PagedBatch([untouched, pool], write, [first.span(), second.span(begin=3)])
    query, new = torch.cat([first.query, second.query]), torch.cat([first.new, second.new])
    got = attend(step, 1, query, new, None)
    assert torch.allclose(got, torch.cat([first.expected(), second.expected()]), atol=1e-5)
    assert not untouched.any()
    assert torch.equal(pool.flatten(0, 1)[write], new)


def test_what_is_copied_is_copied_behind_the_steps_own_keys():
    """The page that is copied from may be filled by the same step."""
    rows = Rows(6)
    target = torch.tensor([int(rows.pages[0, 2]) * 4])
    step = PagedBatch([rows.pool], rows.write, [rows.span()], copied=(rows.write, target))
    attend(step, 0, rows.query, rows.new, None)
    assert torch.equal(rows.pool.flatten(0, 1)[target], rows.new)
    with pytest.raises(KeysWritten):
        attend(step.writing(), 0, rows.query, 2 * rows.new, None)
    assert torch.equal(rows.pool.flatten(0, 1)[rows.write], 2 * rows.new), "they are written all the same"
    assert torch.equal(rows.pool.flatten(0, 1)[target], 2 * rows.new)


def test_a_step_is_narrowed_to_what_is_wanted():
    rows = Rows(5, 1, 9)
    wanted = [rows.span()]
    step = PagedBatch([rows.pool], rows.write, [], torch.tensor([2, 0]), wanted, (rows.write, rows.write))
    narrow = step.narrowed()
    assert narrow.write.tolist() == rows.write[[2, 0]].tolist()
    assert (narrow.spans, narrow.wanted, narrow.copied, narrow.writes_only) == (wanted, None, None, False)
    assert step.writing().writes_only


def test_a_model_calls_it_in_its_own_order_of_dimensions():
    rows = Rows(5, 1, 9)
    module = torch.nn.Module()
    module.layer_idx = 0
    step = PagedBatch([rows.pool], rows.write, [rows.span()])
    query = rows.query.transpose(0, 1).unsqueeze(0)
    key, value = (part.transpose(0, 1).unsqueeze(0) for part in rows.new.unbind(1))
    got, weights = paged_attention(module, query, key, value, None, 0.4, paged=step, sliding_window=3)
    assert got.shape == (1, 3, HEADS, SIZE)
    assert torch.allclose(got[0], rows.expected(0.4, 3), atol=1e-5)
    assert weights is None
    with pytest.raises(ModelError, match="sinks"):
        paged_attention(module, query, key, value, None, paged=step, s_aux=torch.zeros(1))
