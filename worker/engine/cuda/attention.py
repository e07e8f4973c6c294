"""Paged attention by the Triton kernels, as transformers' attention registry calls it."""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from endmark.jobs.errors import ModelError
from endmark.worker.engine.cuda.kernels.cache_write import copy_fronts, write_cache
from endmark.worker.engine.cuda.kernels.decode_attention import decode_attention
from endmark.worker.engine.cuda.kernels.gathered_attention import Gathered, gathered_attention
from endmark.worker.engine.cuda.kernels.prefill_attention import Tiles, prefill_attention
from endmark.worker.engine.key_shape import key_shape
from endmark.worker.engine.last_layer import KeysWritten

PAGED = "endmark_paged"  # the name in transformers' registry
HEAD_SIZES = (64, 80, 96, 128, 256)


@dataclass(slots=True)
class DeviceBatch:
    """One step's batch of T packed tokens, all of it on the device."""

    keys: list[Tensor]  # for each layer (pages, KV heads, page size, head size)
    values: list[Tensor]
    tables: Tensor  # (slots, W) int32
    slots: Tensor  # (T,) int32, of each token's row
    positions: Tensor  # (T,) int32, of each token in its row
    tiles: Tiles | None  # of prompts; None where there are none
    decoding: int  # tokens at the front that are one a row; all where there are no tiles
    gathered: Gathered | None = None  # tiles of prompts whose keys are gathered
    rotary: tuple[Tensor, Tensor] | None = field(default=None)  # left by a rotary function that was put off
    wanted: Tensor | None = None  # (R,) int64: the tokens that the last layer is for alone; see `last_layer`
    copied: Tensor | None = None  # as of `copy_fronts`: tokens copied in each layer once its own are written
    writes_only: bool = False

    def writing(self) -> Self:
        """Attend to nothing from now on, as of `last_layer.Step`."""
        self.writes_only = True
        return self

    def narrowed(self) -> Self:
        """Become the batch of the tokens that are wanted, which attend as rows that run do."""
        assert self.wanted is not None
        self.slots, self.positions = self.slots[self.wanted], self.positions[self.wanted]
        self.tiles, self.gathered, self.decoding = None, None, len(self.wanted)
        self.wanted, self.copied, self.writes_only = None, None, False
        return self


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    paged: DeviceBatch,
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

    Raises:
        KeysWritten: the step wants no more than that.
    """
    del attention_mask, dropout
    if unused.get("s_aux") is not None:
        raise ModelError("attention sinks are not supported", hint="choose another model")
    layer: int = module.layer_idx  # type: ignore[assignment]
    keys, values = paged.keys[layer], paged.values[layer]
    rotary, paged.rotary = paged.rotary, None
    asked = query[0].transpose(0, 1)
    asked = write_cache(
        asked[:, :0] if paged.writes_only else asked,
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        rotary,
        keys,
        values,
        paged.tables,
        paged.slots,
        paged.positions,
    )
    if paged.copied is not None:
        copy_fronts(keys, paged.copied)
        copy_fronts(values, paged.copied)
    if paged.writes_only:
        raise KeysWritten
    scale = scaling if scaling is not None else asked.shape[-1] ** -0.5
    out = attend(asked, keys, values, paged, scale, sliding_window, softcap)
    return out.unsqueeze(0), None


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    paged: DeviceBatch,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Return what each of a step's tokens reads: those that are one a row by one kernel, prompts by another.

    Args:
        query: (T, heads, D), contiguous; the result likewise.
        keys: of the layer, (pages, KV heads, page size, D), as `values`; the step's own have been written.
        scale: of scores.
        window: tokens that are seen; all by default.
        softcap: bound of the scores, as Gemma 2 has it.
    """
    out = torch.empty_like(query)
    if count := paged.decoding:
        decode_attention(
            query[:count],
            keys,
            values,
            paged.tables,
            paged.slots[:count],
            paged.positions[:count],
            scale=scale,
            window=window,
            softcap=softcap,
            out=out[:count],
        )
    if paged.tiles is not None:
        prefill_attention(
            query, keys, values, paged.tables, paged.tiles, scale=scale, window=window, softcap=softcap, out=out
        )
    if paged.gathered is not None:
        gathered_attention(
            query, keys, values, paged.tables, paged.gathered, scale=scale, window=window, softcap=softcap, out=out
        )
    return out


def empty_cache(
    network: PreTrainedModel, pages: int, page_size: int, kind: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Return each layer's keys and values, (pages, KV heads, page size, head size)."""
    config = network.config.get_text_config()
    heads, size = key_shape(config)
    shape = (pages, heads, page_size, size)
    layers = range(config.num_hidden_layers)
    keys = [torch.zeros(shape, dtype=kind, device=network.device) for _ in layers]
    values = [torch.zeros(shape, dtype=kind, device=network.device) for _ in layers]
    return keys, values


class RotaryDelay:
    """Stands in for a model's rotary function: leaves the rotation to the kernel that writes the cache."""

    def __init__(self, plain: object) -> None:
        self.plain = plain
        self.batch: DeviceBatch | None = None  # of the step that is running, if its rotation is to be put off

    def __call__(
        self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *args: object, **kwargs: object
    ) -> object:
        """Return the queries and keys as they are and keep cosine and sine, where a step runs."""
        if self.batch is None:
            return self.plain(query, key, cos, sin, *args, **kwargs)  # type: ignore[operator]
        self.batch.rotary = cos.flatten(0, -2), sin.flatten(0, -2)
        return query, key


def rotates_halves(function: object, size: int) -> bool:
    """Whether a rotary function is the one that the kernel computes, tried on random numbers."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 3, size, generator=generator) for _ in range(2))
    cos, sin = (torch.randn(1, 3, size, generator=generator) for _ in range(2))
    try:
        got = function(query, key, cos, sin)  # type: ignore[operator]
    except (TypeError, RuntimeError):
        return False  # another signature or shape: not this function
    half = size // 2
    turned = torch.cat((-query[..., half:], query[..., :half]), -1)
    return torch.allclose(got[0], query * cos[:, None] + turned * sin[:, None], atol=1e-5)


AttentionInterface.register(PAGED, paged_attention)
