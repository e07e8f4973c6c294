"""Paged attention in plain PyTorch: gather the pages, then scaled_dot_product_attention.

It serves where no kernel does (CPU, older cards) and is the oracle of those kernels. A model calls it through
transformers' attention registry, with the step's `PagedBatch` handed through the forward call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from endmark.jobs.errors import ModelError
from endmark.worker.engine.last_layer import KeysWritten

PLAIN = "endmark_plain"  # the name in transformers' registry


@dataclass(slots=True)
class Span:
    """Rows of a step that attend together: B rows of Q new tokens each, over P pages of cached ones."""

    begin: int  # of their tokens in the packed batch
    rows: int
    queries: int
    pages: Tensor  # (B, P) int64: the pages that hold each row's cached tokens, the new ones included
    positions: Tensor  # (B, Q) int64: positions of the new tokens
    fresh: bool = False  # nothing is cached of the rows: the new tokens are all that there are
    masks: dict[int | None, Tensor] = field(
        default_factory=dict
    )  # of one new token a row, by window: layers share it


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """One step's batch of T packed tokens."""

    pools: list[Tensor]  # for each layer (num_pages, page_size, 2, KV heads, head size): keys, then values
    write: Tensor  # (T,) int64: where each new token's key and value go
    spans: list[Span]
    wanted: Tensor | None = None  # (R,) int64: the tokens that the last layer is for alone; see `last_layer`
    wanted_spans: Sequence[Span] = ()  # those tokens as they attend, counted among themselves
    # (C,) int64 each: tokens whose keys and values are copied once the step's own are written, and where to
    copied: tuple[Tensor, Tensor] | None = None
    writes_only: bool = False

    def writing(self) -> Self:
        """Return the step that attends to nothing, as of `last_layer.Step`."""
        return replace(self, writes_only=True)

    def narrowed(self) -> Self:
        """Return the step of the tokens that are wanted."""
        assert self.wanted is not None
        write = self.write[self.wanted]
        return replace(self, write=write, spans=list(self.wanted_spans), wanted=None, copied=None)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    paged: PagedBatch,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: object,
) -> tuple[Tensor, None]:
    """Write the step's keys and values to their pages and attend over each row's own.

    Args:
        module: the attention layer; its `layer_idx` picks the cache.
        query: (1, heads, T, head size).
        key: (1, KV heads, T, head size), as are `value`s.

    Returns:
        (1, T, heads, head size) and no weights.
    """
    del attention_mask, dropout
    if unused.get("s_aux") is not None:
        raise ModelError("attention sinks are not supported", hint="choose another model")
    layer: int = module.layer_idx  # type: ignore[assignment]
    new = torch.stack((key[0].transpose(0, 1), value[0].transpose(0, 1)), 1)
    asked = query[0].transpose(0, 1)
    return attend(paged, layer, asked, new, scaling, sliding_window, softcap).unsqueeze(0), None


def attend(
    paged: PagedBatch,
    layer: int,
    query: Tensor,
    new: Tensor,
    scaling: float | None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Write the step's keys and values to their pages; return what each token reads, (T, heads, head size).

    Args:
        paged: the step.
        layer: whose pages.
        query: (T, heads, head size).
        new: (T, 2, KV heads, head size): the tokens' keys and values.
        scaling: of the scores; None for one over the root of the head size.
        window: how many tokens back a token sees, itself included; None for all.
        softcap: what scores are squeezed into, as Gemma 2 does.

    Raises:
        KeysWritten: the step wants no more than that.
    """
    pool = paged.pools[layer]
    cells = pool.flatten(0, 1)
    cells.index_copy_(0, paged.write, new.to(pool.dtype))
    if paged.copied is not None:
        source, target = paged.copied
        cells.index_copy_(0, target, cells[source])
    if paged.writes_only:
        raise KeysWritten
    (_, heads, size), kv_heads = query.shape, new.shape[2]
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for span in paged.spans:
        end = span.begin + span.rows * span.queries
        given = pool.index_select(0, span.pages.flatten()).view(span.rows, -1, *pool.shape[2:])
        keys, values = given[:, :, 0].transpose(1, 2), given[:, :, 1].transpose(1, 2)
        asked = query[span.begin : end]
        if span.queries == 1:  # the heads that share keys are as queries of one: keys are then read once for them
            asked = asked.reshape(span.rows, kv_heads, -1, size)
        else:
            asked = asked.reshape(span.rows, span.queries, heads, size).transpose(1, 2)
        grouped = asked.shape[1] != kv_heads
        if softcap is None and span.fresh and (window is None or window >= span.queries):
            keys, values = keys[:, :, : span.queries], values[:, :, : span.queries]
            got = scaled_dot_product_attention(
                asked, keys, values, is_causal=True, scale=scaling, enable_gqa=grouped
            )
        elif softcap is None:
            mask = _mask(span, keys.shape[2], window, query.dtype)
            got = scaled_dot_product_attention(
                asked, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped
            )
        else:
            mask = _mask(span, keys.shape[2], window, query.dtype)
            got = _capped(asked, keys, values, mask=mask, scaling=scaling or size**-0.5, cap=softcap)
        if span.queries > 1:
            got = got.transpose(1, 2)
        out[span.begin : end] = got.reshape(-1, heads, size)
    return out


def _mask(span: Span, length: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return (B, 1, Q, length): 0 for cached tokens that a new one sees, else minus infinity; added to scores."""
    mask = span.masks.get(window)
    if mask is None:
        at = torch.arange(length, device=span.pages.device)
        hidden = at > span.positions.unsqueeze(-1)
        if window is not None:
            hidden |= at <= span.positions.unsqueeze(-1) - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        mask = mask.unsqueeze(1)
        if span.queries == 1:  # that of a long prompt is too large to be kept beside others
            span.masks[window] = mask
    return mask


def _capped(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor, scaling: float, cap: float) -> Tensor:
    """Attend with scores squeezed into ±cap, as Gemma 2 does."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.tanh(query @ key.transpose(-1, -2) * scaling / cap) * cap
    weights = scores.masked_fill(mask != 0, -torch.inf).softmax(-1, dtype=torch.float32).to(query.dtype)
    return weights @ value


AttentionInterface.register(PLAIN, paged_attention)
