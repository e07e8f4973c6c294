"""Paged attention in plain PyTorch: gather the pages, then scaled_dot_product_attention.

It serves where no kernel does (CPU, older cards) and is the oracle of those kernels. A model calls it through
transformers' attention registry, with the step's `PagedBatch` handed through the forward call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from endmark.jobs.errors import ModelError

PLAIN = "endmark_plain"  # the name in transformers' registry


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of a step that attend together: B rows of Q new tokens each, over P pages of cached ones."""

    begin: int  # of their tokens in the packed batch
    rows: int
    queries: int
    pages: Tensor  # (B, P) int64: the pages that hold each row's cached tokens, the new ones included
    positions: Tensor  # (B, Q) int64: positions of the new tokens


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """One step's batch of T packed tokens."""

    keys: list[Tensor]  # for each layer (num_pages, page_size, KV heads, head size)
    values: list[Tensor]
    write: Tensor  # (T,) int64: where each new token's key and value go
    spans: list[Span]


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
    keys, values = paged.keys[layer], paged.values[layer]
    keys.flatten(0, 1)[paged.write] = key[0].transpose(0, 1).to(keys.dtype)
    values.flatten(0, 1)[paged.write] = value[0].transpose(0, 1).to(values.dtype)
    heads, size = query.shape[1], query.shape[3]
    out = query.new_empty(query.shape[2], heads, values.shape[-1])
    for span in paged.spans:
        end = span.begin + span.rows * span.queries
        asked = query[0, :, span.begin : end].reshape(heads, span.rows, span.queries, size).transpose(0, 1)
        given = _gather(keys, span.pages), _gather(values, span.pages)
        mask = _mask(span, given[0].shape[2], sliding_window)
        if softcap is None:
            got = scaled_dot_product_attention(
                asked, *given, attn_mask=mask, scale=scaling, enable_gqa=heads != given[0].shape[1]
            )
        else:
            got = _capped(asked, *given, mask=mask, scaling=scaling or size**-0.5, cap=softcap)
        out[span.begin : end] = got.transpose(1, 2).reshape(span.rows * span.queries, heads, -1)
    return out.unsqueeze(0), None


def _gather(pool: Tensor, pages: Tensor) -> Tensor:
    """Return (B, KV heads, P * page size, head size): the rows' pages, whole pages at a time."""
    found = pool.index_select(0, pages.flatten())
    return found.view(len(pages), -1, *pool.shape[2:]).transpose(1, 2)


def _mask(span: Span, length: int, window: int | None) -> Tensor:
    """Return (B, 1, Q, length) bool: which cached tokens each new token sees."""
    at = torch.arange(length, device=span.pages.device)
    mask = at <= span.positions.unsqueeze(-1)
    if window is not None:
        mask &= at > span.positions.unsqueeze(-1) - window
    return mask.unsqueeze(1)


def _capped(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor, scaling: float, cap: float) -> Tensor:
    """Attend with scores squeezed into ±cap, as Gemma 2 does."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.tanh(query @ key.transpose(-1, -2) * scaling / cap) * cap
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32).to(query.dtype)
    return weights @ value


AttentionInterface.register(PLAIN, paged_attention)
