"""A decoder's blocks in few and large operations, for the common kind of block and without its modules.

Nothing is taken on trust: a block is exchanged only where its stand-in gives the same numbers as its modules, and
any other stays as it is. What it asks of attention (scaling, window) is what its modules ask for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers import AttentionInterface, PreTrainedModel

from endmark.worker.engine.attention import PagedBatch, Span, attend, paged_attention
from endmark.worker.engine.cpu.products import PackedLinear, pack_products, packed, packed_together
from endmark.worker.engine.key_shape import key_shape

_TRIAL = "endmark_cpu_trial"  # the name in transformers' registry
_TOKENS = 5  # of the trial
_CLOSE = 1e-3  # of what a block adds: the stand-in sums in another order
_ROUNDING = 1e-6  # of what it is added to


@dataclass(frozen=True, slots=True)
class Asked:
    """What the modules of a block ask of attention."""

    layer: int
    kv_heads: int
    size: int  # of a head
    scaling: float | None
    window: int | None
    softcap: float | None


@dataclass(frozen=True, slots=True)
class _Trial(PagedBatch):
    """A step that also notes what each layer asks for."""

    asked: dict[int, Asked] = field(default_factory=dict)


class _Norm:
    """An RMS norm over the last dimension."""

    def __init__(self, module: Any, offset: float) -> None:  # noqa: ANN401 - an RMS norm of any model
        """Read the module; `offset` is what its weight has to be added to: 1 for Gemma's kind."""
        self._weight = module.weight.data + offset
        self._shape = self._weight.shape
        self._eps: float = getattr(module, "variance_epsilon", None) or module.eps

    def __call__(self, x: Tensor) -> Tensor:
        """Return the norm of (…, width)."""
        return rms_norm(x, self._shape, self._weight, self._eps)


class Block:
    """Norm, attention whose heads turn by halves, add, norm, gated feed-forward, add."""

    def __init__(self, layer: Any, asked: Asked, offset: float) -> None:  # noqa: ANN401 - of any model
        """Read a block's modules.

        Raises:
            AttributeError: it is of another kind.
        """
        attention, gated = layer.self_attn, layer.mlp
        self._asked = asked
        self._norm = _Norm(layer.input_layernorm, offset)
        self._second_norm = _Norm(layer.post_attention_layernorm, offset)
        self._head_norms = [
            _Norm(getattr(attention, name), offset) for name in ("q_norm", "k_norm") if hasattr(attention, name)
        ]
        self._heads: list[nn.Module] = [attention.q_proj, attention.k_proj, attention.v_proj]
        self._out: nn.Module = attention.o_proj
        self._both: list[nn.Module] = [gated.gate_proj, gated.up_proj]
        self._activation: Callable[[Tensor], Tensor] = gated.act_fn
        self._down: nn.Module = gated.down_proj

    def pack(self) -> None:
        """Lay the weights out, those of one input together."""
        self._heads, self._both = packed_together(self._heads), packed_together(self._both)
        self._out, self._down = packed(self._out), packed(self._down)

    def __call__(
        self,
        hidden_states: Tensor,
        *args: object,
        position_embeddings: tuple[Tensor, Tensor],
        paged: PagedBatch,
        **kwargs: object,
    ) -> Tensor:
        """Return the block's output (1, T, width), as the layer's `forward` would."""
        del args, kwargs
        x, asked = hidden_states[0], self._asked
        heads = _side_by_side(self._heads, self._norm(x)).view(len(x), -1, asked.size)
        query = self._turned(heads, *position_embeddings)
        new = heads[:, -2 * asked.kv_heads :].unflatten(1, (2, asked.kv_heads))
        read = attend(paged, asked.layer, query, new, asked.scaling, asked.window, asked.softcap)
        x = _added(self._out, read.flatten(1), x)
        gate, up = _side_by_side(self._both, self._second_norm(x)).chunk(2, -1)
        return _added(self._down, self._activation(gate) * up, x).unsqueeze(0)

    def _turned(self, heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the queries (T, heads, size), norms and rotation applied; the keys among `heads` become theirs.

        Args:
            heads: (T, heads + 2 KV heads, size): queries, keys, values; changed.
            cos: (1, T, size), as is `sin`.
        """
        kv_heads, half = self._asked.kv_heads, self._asked.size // 2
        plain = heads[:, :-kv_heads]
        if self._head_norms:
            query_norm, key_norm = self._head_norms
            parts = query_norm(plain[:, :-kv_heads]), key_norm(plain[:, -kv_heads:])
            plain = torch.cat(parts, 1)
        cos, sin = cos[0].unsqueeze(1), sin[0].unsqueeze(1)
        turned = plain * cos
        turned[..., :half].addcmul_(plain[..., half:], sin[..., :half], value=-1.0)
        turned[..., half:].addcmul_(plain[..., :half], sin[..., half:])
        heads[:, -2 * kv_heads : -kv_heads] = turned[:, -kv_heads:]
        return turned[:, :-kv_heads]


def _side_by_side(products: list[nn.Module], x: Tensor) -> Tensor:
    """Return the products of x side by side."""
    if len(products) == 1:
        first: Tensor = products[0](x)
        return first
    return torch.cat([product(x) for product in products], -1)


def _added(product: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    """Return a product plus a residual."""
    if isinstance(product, PackedLinear):
        return product.add(x, residual)
    total: Tensor = residual + product(x)
    return total


@torch.inference_mode()
def speed_up(network: PreTrainedModel) -> tuple[int, int]:
    """Exchange the blocks of a network that are known, and lay out the weights of all products, in place.

    Afterwards the network can run only through `worker.engine.plain_runner`.

    Args:
        network: on a CPU, its attention set to `endmark_plain`.

    Returns:
        Blocks exchanged, and blocks in all.
    """
    layers = list(getattr(network.get_decoder(), "layers", ()))
    blocks = _tried(network, layers)
    for index, block in blocks.items():
        block.pack()
        del layers[index].self_attn, layers[index].mlp  # the weights go with them
        layers[index].forward = block
    pack_products(network)
    return len(blocks), len(layers)


def _tried(network: PreTrainedModel, layers: list[Any]) -> dict[int, Block]:
    """Run a short row through the network; return stand-ins of the blocks that gave what their stand-ins give."""
    seen: dict[int, tuple[Any, dict[str, Any], Tensor]] = {}  # what a block was given, by its index, and gave

    def note(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, named: dict[str, Any], out: Any) -> None:  # noqa: ANN401
            del module
            seen[index] = given, named, out

        return hook

    hooks = [layer.register_forward_hook(note(index), with_kwargs=True) for index, layer in enumerate(layers)]
    config = network.config.get_text_config()
    usual, trial = config._attn_implementation, _trial(config)
    config._attn_implementation = _TRIAL
    try:
        ids = torch.arange(_TOKENS).unsqueeze(0)
        network(input_ids=ids, position_ids=ids, use_cache=False, logits_to_keep=1, paged=trial)
    finally:
        config._attn_implementation = usual
        for hook in hooks:
            hook.remove()
    found: dict[int, Block] = {}
    for index, (given, named, out) in seen.items():
        block = _stand_in(layers[index], trial.asked.get(index), given, named, out)
        if block is not None:
            found[index] = block
    return found


def _trial(config: Any) -> _Trial:  # noqa: ANN401 - the config of any model
    """Return a step of one row that nothing is cached of, with a page for it in each layer."""
    pools = [torch.zeros(1, _TOKENS, 2, *key_shape(config)) for _ in range(config.num_hidden_layers)]
    places = torch.arange(_TOKENS)
    row = Span(0, 1, _TOKENS, torch.zeros(1, 1, dtype=torch.int64), places.unsqueeze(0))
    return _Trial(pools, places, [row])


def _stand_in(
    layer: Any,  # noqa: ANN401 - a block of any model
    asked: Asked | None,
    given: tuple[Any, ...],
    named: dict[str, Any],
    out: Any,  # noqa: ANN401
) -> Block | None:
    """Return the stand-in that gives what the block gave; None if none does."""
    if asked is None or not isinstance(out, Tensor):
        return None
    for offset in (0.0, 1.0):
        try:
            block = Block(layer, asked, offset)
            got = block(*given, **named)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return None  # other parts, shapes or arguments: a block of another kind
        x = given[0] if given else named["hidden_states"]
        if bool((got - out).norm() <= _CLOSE * (out - x).norm() + _ROUNDING * out.norm()):
            return block
    return None


def _noted(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **named: Any) -> tuple[Tensor, None]:  # noqa: ANN401
    """Attend as the plain path does, and note what was asked for."""
    paged = named["paged"]
    if isinstance(paged, _Trial):
        layer: int = module.layer_idx  # type: ignore[assignment]
        paged.asked[layer] = Asked(
            layer,
            key.shape[1],
            key.shape[3],
            named.get("scaling"),
            named.get("sliding_window"),
            named.get("softcap"),
        )
    return paged_attention(module, query, key, *args, **named)


AttentionInterface.register(_TRIAL, _noted)
