"""Fewer and larger launches for any decoder of transformers whose blocks are of the common shape.

Nothing here is taken on trust: a part is exchanged only where its stand-in gives the same numbers on random
input, and a part of another shape stays as it is.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from endmark.worker.engine.cuda.attention import RotaryDelay, rotates_halves
from endmark.worker.engine.cuda.kernels.gated import GELU_TANH, SILU, gated
from endmark.worker.engine.cuda.kernels.norms import rms_norm


@dataclass(slots=True)
class Fused:
    """What has been exchanged, for the log; and the rotary function that is put off, if it is."""

    norms: int = 0
    residuals: int = 0
    projections: int = 0
    gates: int = 0
    rotary: RotaryDelay | None = None
    modules: list[nn.Module] = field(default_factory=list)


class FusedNorm(nn.Module):
    """An RMS norm in one launch."""

    def __init__(self, weight: nn.Parameter, eps: float, *, offset: bool) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = weight, eps, offset

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the norm of (…, width)."""
        return rms_norm(hidden_states, self.weight, self.eps, offset=self.offset)[0]

    def add(self, hidden_states: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the norm of the sum, and the sum."""
        return rms_norm(hidden_states, self.weight, self.eps, offset=self.offset, residual=residual)


class _First(nn.Module):
    """The first of several projections of one input: computes them all."""

    def __init__(self, product: nn.Module, widths: list[int]) -> None:
        super().__init__()
        self.product, self.widths = product, widths
        self.pieces: list[Tensor] = []

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the first projection and keep the others."""
        first: Tensor
        first, *self.pieces = self.product(hidden_states).split(self.widths, -1)
        return first


class _Next(nn.Module):
    """One of the other projections: hands out what the first computed."""

    def __init__(self, first: _First) -> None:
        super().__init__()
        self._first = [first]  # in a list, so that it is not registered twice

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the projection of the same input."""
        del hidden_states
        pieces: list[Tensor] = self._first[0].pieces
        return pieces.pop(0)


def fuse(network: PreTrainedModel) -> Fused:
    """Exchange what can be exchanged, in place."""
    done = Fused()
    for name, module in list(network.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = _fused_norm(module)
            if norm is not None:
                network.set_submodule(name, norm)
                done.norms += 1
    for module in list(network.modules()):
        if all(isinstance(getattr(module, part, None), nn.Linear) for part in ("q_proj", "k_proj", "v_proj")):
            done.projections += _merge_projections(module)
        if all(
            isinstance(getattr(module, part, None), nn.Linear) for part in ("gate_proj", "up_proj", "down_proj")
        ):
            done.gates += _merge_gate(module)
    done.residuals = _fuse_residuals(network)
    done.rotary = _delay_rotary(network)
    return done


def _fused_norm(module: nn.Module) -> FusedNorm | None:
    """Return the stand-in of an RMS norm, if one of the two known kinds gives the same numbers."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or not isinstance(eps, float):
        return None
    generator = torch.Generator(weight.device).manual_seed(0)
    x = torch.randn(4, weight.numel(), generator=generator, device=weight.device).to(weight.dtype)
    with torch.inference_mode():
        want = module(x).float()
        for offset in (False, True):
            norm = FusedNorm(weight, eps, offset=offset)
            if (norm(x).float() - want).norm() <= 1e-2 * want.norm() and want.norm() > 0:
                return norm
    return None


def _is_plain(module: nn.Module) -> bool:
    """Whether a projection is a plain matrix product (not a packed one)."""
    return type(module) is nn.Linear


def _concatenate(parts: list[nn.Linear]) -> nn.Linear:
    """Return one projection that gives the parts' outputs side by side."""
    whole = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts), bias=False, device="meta")
    whole.weight = nn.Parameter(torch.cat([part.weight.data for part in parts]), requires_grad=False)
    if any(part.bias is not None for part in parts):
        rows = [
            part.bias.data if part.bias is not None else part.weight.data.new_zeros(part.out_features)
            for part in parts
        ]
        whole.bias = nn.Parameter(torch.cat(rows), requires_grad=False)
    for part in parts:
        part.weight.data = part.weight.data.new_empty(0)  # its memory goes before the next layer's merge
    return whole


def _merge_projections(module: nn.Module) -> int:
    """Merge the query, key and value projections of an attention block; return 1 if it was done."""
    parts = [getattr(module, name) for name in ("q_proj", "k_proj", "v_proj")]
    if not all(map(_is_plain, parts)):
        return 0
    first = _First(_concatenate(parts), [part.out_features for part in parts])
    module.q_proj, module.k_proj, module.v_proj = first, _Next(first), _Next(first)
    return 1


def _merge_gate(module: Any) -> int:  # noqa: ANN401 - a gated block of any model
    """Merge gate and up of a gated block and fuse its activation; return 1 if it was done."""
    parts = [module.gate_proj, module.up_proj]
    kind = _activation_kind(getattr(module, "act_fn", None))
    if kind is None or not all(isinstance(part, nn.Linear) and _is_plain(part) for part in parts):
        return 0
    weight = module.gate_proj.weight
    generator = torch.Generator(weight.device).manual_seed(0)
    x = torch.randn(4, weight.shape[1], generator=generator, device=weight.device).to(weight.dtype)
    down = module.down_proj
    with torch.inference_mode():
        want = module(x).float()
        got = down(gated(torch.cat([part(x) for part in parts], -1), kind)).float()
    if not (got - want).norm() <= 2e-2 * want.norm():
        return 0
    both = _concatenate(parts)

    def forward(hidden_states: Tensor) -> Tensor:
        out: Tensor = down(gated(both(hidden_states), kind))
        return out

    module.both_proj = both
    module.gate_proj = module.up_proj = nn.Identity()
    module.forward = forward
    return 1


def _activation_kind(activation: Callable[[Tensor], Tensor] | None) -> int | None:
    """Return which of the kernel's activations this is, tried on numbers; None if it is neither."""
    if activation is None:
        return None
    x = torch.linspace(-4, 4, 101)
    try:
        got = activation(x)
    except (TypeError, RuntimeError):
        return None
    if torch.allclose(got, nn.functional.silu(x), atol=1e-5):
        return SILU
    return GELU_TANH if torch.allclose(got, nn.functional.gelu(x, approximate="tanh"), atol=1e-5) else None


_COMMON = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}


def _fuse_residuals(network: PreTrainedModel) -> int:
    """Let each block add its residual inside the next norm; return how many blocks do."""
    decoder: Any = network.get_decoder()
    layers = list(getattr(decoder, "layers", ()))
    final = getattr(decoder, "norm", None)
    known = all(
        {name for name, _ in layer.named_children()} == _COMMON
        and isinstance(layer.input_layernorm, FusedNorm)
        and isinstance(layer.post_attention_layernorm, FusedNorm)
        for layer in layers
    )
    if not known or not isinstance(final, FusedNorm) or not _is_common_block(layers[0]):
        return 0
    normed = _Normed()
    norms = [layer.input_layernorm for layer in layers[1:]] + [final]
    for layer, following in zip(layers, norms, strict=True):
        layer.forward = _block_forward(layer, following, normed)
    decoder.norm = _TakeNormed(final, normed)
    return len(layers)


def _is_common_block(layer: Any) -> bool:  # noqa: ANN401 - a decoder layer of any model
    """Whether a block is norm, attention, add, norm, feed-forward, add: tried with attention left out."""
    width = layer.input_layernorm.weight
    x = torch.randn(
        1, 3, width.numel(), device=width.device, generator=torch.Generator(width.device).manual_seed(0)
    )
    x = x.to(width.dtype)
    attention = layer.self_attn.forward
    layer.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    try:
        with torch.inference_mode():
            got = layer(x, position_embeddings=None, attention_mask=None)
            got = got[0] if isinstance(got, tuple) else got
            middle = x + layer.input_layernorm(x)
            want = middle + layer.mlp(layer.post_attention_layernorm(middle))
    finally:
        layer.self_attn.forward = attention
    return bool((got.float() - want.float()).norm() <= 1e-2 * want.float().norm())


class _Normed:
    """The normed sum of the block before, and the sum that it belongs to."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.value: Tensor | None = None

    def take(self, total: Tensor, norm: FusedNorm) -> Tensor:
        """Return the norm of the sum: the one at hand if it is of this very tensor."""
        value, known = self.value, self.total is total
        self.total = self.value = None
        return value if known and value is not None else norm(total)


class _TakeNormed(nn.Module):
    """The last norm, which the last block has computed."""

    def __init__(self, norm: FusedNorm, normed: _Normed) -> None:
        super().__init__()
        self.norm, self._normed = norm, normed

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the norm of (…, width)."""
        return self._normed.take(hidden_states, self.norm)


def _block_forward(layer: Any, following: FusedNorm, normed: _Normed) -> Callable[..., Tensor]:  # noqa: ANN401
    """Return a block's forward whose two additions happen inside norms."""
    own, second = layer.input_layernorm, layer.post_attention_layernorm

    def forward(hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        attended, _ = layer.self_attn(*args, hidden_states=normed.take(hidden_states, own), **kwargs)
        between, total = second.add(attended, hidden_states)
        normed.value, normed.total = following.add(layer.mlp(between), total)
        result: Tensor = normed.total
        return result

    return forward


# parts of an attention block that all act before the rotation, or after the attention
_ROTATED_LAST = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}


def _delay_rotary(network: PreTrainedModel) -> RotaryDelay | None:
    """Put the model's rotary function off to the kernel that writes the cache, if it is the common one."""
    attention = next((module for name, module in network.named_modules() if name.endswith("self_attn")), None)
    if attention is None or not {name for name, _ in attention.named_children()} <= _ROTATED_LAST:
        return None  # a norm after the rotation, as Hunyuan has it, would come before it
    size = getattr(attention, "head_dim", None)
    source = sys.modules.get(type(attention).__module__)
    plain = getattr(source, "apply_rotary_pos_emb", None)
    if isinstance(plain, RotaryDelay):
        return plain
    if plain is None or not isinstance(size, int) or not rotates_halves(plain, size):
        return None
    config = network.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    delay = RotaryDelay(plain)
    source.apply_rotary_pos_emb = delay  # type: ignore[union-attr]
    return delay
