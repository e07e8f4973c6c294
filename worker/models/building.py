"""Building the runner that suits the device: how many rows and pages, and by which path."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import PreTrainedModel

from endmark.jobs.engines import SEVERAL_CARDS
from endmark.jobs.errors import ModelError
from endmark.jobs.landing import tabulate
from endmark.worker.engine.adjusting import ROOM_BYTES, ROOMS
from endmark.worker.engine.contract import Runner
from endmark.worker.engine.cpu.blocks import speed_up
from endmark.worker.engine.key_shape import key_shape
from endmark.worker.engine.plain_runner import PlainRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.weights import free_memory

log = logging.getLogger(__name__)

PAGE_SIZE = 16
_CPU_ROWS, _GPU_ROWS = 64, 256
_MOST_ROWS, _ROW_STEP = 1024, 64  # rows at once where nobody says how many: beyond them no card is faster
_TYPICAL_ROW = 512  # tokens a row for which the cache has room when rows are counted by it
_CPU_CACHE_BYTES = 1 << 30
_PREFILL_TOKENS = 8192  # of a step, also beside running rows: the larger, the less is lost between launches
_CPU_PREFILL_TOKENS = 1024
_USEFUL_ROW = 1024  # tokens a row for which room is kept before weights are expanded
_SPARE = 0.94  # of the free memory that is taken
_GRAPH_BYTES = 1 << 30  # for captured graphs, kernels and libraries


@dataclass(frozen=True, slots=True)
class Shape:
    """What the sizes of the cache and of the work depend on."""

    device: torch.device
    layers: int
    kv_heads: int
    head_size: int
    hidden: int
    widest: int  # of the feed-forward layers
    vocabulary: int
    context: int  # tokens that a row may have, prompt and answer
    itemsize: int  # bytes a number of the model
    cache_itemsize: int  # bytes a number of the KV cache
    rows: int

    @classmethod
    def of(cls, network: PreTrainedModel, max_rows: int | None, kv_cache: str) -> "Shape":
        """Read a model's shape."""
        config = network.config.get_text_config()
        on_gpu = network.device.type == "cuda"
        kv_heads, head_size = key_shape(config)
        return cls(
            device=network.device,
            layers=int(config.num_hidden_layers),
            kv_heads=kv_heads,
            head_size=head_size,
            hidden=int(config.hidden_size),
            widest=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
            vocabulary=int(config.vocab_size),
            context=int(config.max_position_embeddings),
            itemsize=network.dtype.itemsize,
            cache_itemsize=1 if kv_cache == "fp8" and on_gpu else network.dtype.itemsize,
            rows=max_rows or (_GPU_ROWS if on_gpu else _CPU_ROWS),
        )

    def widened(self) -> "Shape":
        """Return the shape with as many rows as the memory left holds; to be called once the weights stand."""
        if self.device.type != "cuda":
            return self
        free = free_memory(self.device) * _SPARE - replace(self, rows=_MOST_ROWS).work_bytes
        return replace(self, rows=fitting_rows(int(free // self.token_bytes), self.rows))

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in the KV cache."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.cache_itemsize

    @property
    def work_bytes(self) -> int:
        """Bytes that forward passes take beside weights and cache: one with prompts, and those captured."""
        if self.device.type != "cuda":
            return 0
        tokens = max(_PREFILL_TOKENS, self.rows) + self.rows
        return (
            tokens * (6 * self.hidden + 3 * self.widest) * self.itemsize
            + self.rows * self.vocabulary * 8
            + min(self.rows, ROOMS) * self.vocabulary * ROOM_BYTES
            + _GRAPH_BYTES
        )

    @property
    def reserve(self) -> float:
        """Bytes that expanding weights must leave free: the work, and a KV cache of useful size."""
        useful = self.rows * min(self.context, _USEFUL_ROW) * self.token_bytes
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            return self.work_bytes + min(useful, total / 3)
        return useful + 0.5 * free_memory(self.device)

    def pages(self) -> int:
        """Return how many KV pages there is room for, no more than all rows can use.

        Raises:
            ModelError: there is no room for a single row.
        """
        wanted = self.rows * -(-self.context // PAGE_SIZE)
        if self.device.type != "cuda":
            return max(1, min(_CPU_CACHE_BYTES // self.token_bytes // PAGE_SIZE, wanted))
        free = free_memory(self.device) * _SPARE - self.work_bytes
        pages = min(int(free // (self.token_bytes * PAGE_SIZE)), wanted)
        if pages * PAGE_SIZE < min(self.context, _USEFUL_ROW):
            raise ModelError(
                f"the model leaves {free / 2**30:.1f} GiB of the card for the KV cache, "
                f"and one row of {min(self.context, _USEFUL_ROW)} tokens needs "
                f"{min(self.context, _USEFUL_ROW) * self.token_bytes / 2**30:.1f}",
                hint=f"take `--weights packed`, a smaller model or a larger card, or {SEVERAL_CARDS}",
            )
        return pages


def fitting_rows(tokens: int, least: int) -> int:
    """Return how many rows run at once in a cache of so many tokens: typical rows find room, long ones wait.

    Args:
        tokens: that the cache holds.
        least: rows in any case; those without room wait.
    """
    rows = tokens // _TYPICAL_ROW // _ROW_STEP * _ROW_STEP
    return max(least, min(rows, _MOST_ROWS))


def build_runner(
    network: PreTrainedModel, eos_ids: Collection[int], vocabulary: Vocabulary, shape: Shape, kv_cache: str
) -> Runner:
    """Return the fast runner where it can run, else the plain one.

    Args:
        network: loaded, with its weights as they shall be.
        eos_ids: all end tokens.
        vocabulary: of the tokeniser.
        shape: of the network.
        kv_cache: `auto`: the model's type, or `fp8` on a GPU that has it.

    Raises:
        ModelError: there is no room, or `fp8` cannot be had.
    """
    reason = why_plain(shape)
    if kv_cache == "fp8" and (reason is not None or torch.cuda.get_device_capability() < (8, 9)):
        raise ModelError(
            f"an fp8 KV cache needs a GPU that has the type: {reason or 'this one has not'}",
            hint="leave `--kv-cache` out",
        )
    pages = shape.pages()
    table = sentence_table(vocabulary, shape.vocabulary)
    if reason is None:
        from endmark.worker.engine.cuda.runner import (
            CudaRunner,  # needs Triton, which comes with CUDA builds of torch
        )

        return CudaRunner(
            network,
            eos_ids,
            num_pages=pages,
            page_size=PAGE_SIZE,
            max_rows=shape.rows,
            prefill_tokens=_PREFILL_TOKENS,
            piece_tokens=_PREFILL_TOKENS,
            context=shape.context,
            sentence_table=table,
            cache_type=torch.float8_e4m3fn if kv_cache == "fp8" else None,
        )
    if shape.device.type == "cuda":
        log.warning("the plain path serves, slower than the card could: %s", reason)
    else:
        exchanged, blocks = speed_up(network)
        log.info("%d of %d blocks run without their modules", exchanged, blocks)
    return PlainRunner(
        network,
        eos_ids,
        num_pages=pages,
        page_size=PAGE_SIZE,
        max_rows=shape.rows,
        prefill_tokens=_PREFILL_TOKENS if shape.device.type == "cuda" else _CPU_PREFILL_TOKENS,
        context=shape.context,
        sentence_table=table,
    )


def why_plain(shape: Shape) -> str | None:
    """Return why the fast path cannot run; None if it can."""
    if shape.device.type != "cuda":
        return "it needs a GPU"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than Ampere (no bf16)"
    from endmark.worker.engine.cuda.attention import HEAD_SIZES

    if shape.head_size not in HEAD_SIZES:
        return f"heads of size {shape.head_size} have no kernel"
    return None


def sentence_table(vocabulary: Vocabulary, size: int) -> Tensor:
    """Return (STATES, V) uint8 of `jobs.landing.tabulate`, for all tokens that have scores."""
    known = vocabulary.token_bytes[:size]  # a tokeniser may know more tokens than the model
    padded = [*known, *([b""] * (size - len(known)))]
    rows = bytearray(b"".join(tabulate(padded)))
    return torch.frombuffer(rows, dtype=torch.uint8).view(-1, len(padded))
