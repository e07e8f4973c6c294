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
from endmark.worker.engine.cuda.blocks import fuse_residuals, fused_norm
from endmark.worker.engine.cuda.kernels.gated import GELU_TANH, SILU, gated, scaled_gated
from endmark.worker.engine.cuda.kernels.scaling import scale_rows
from endmark.worker.engine.cuda.packed import PackedLinear, lay_out_packed
from endmark.worker.engine.fp8 import Fp8Linear, Scaled


@dataclass(slots=True)
class Fused:
    """What has been exchanged, for the log; and the rotary function that is put off, if it is."""

    packed: int = 0  # layers whose weights stay packed
    norms: int = 0
    residuals: int = 0
    projections: int = 0
    gates: int = 0
    scaled: int = 0  # norms that hand their numbers on in fp8
    rotary: RotaryDelay | None = None
    modules: list[nn.Module] = field(default_factory=list)


class _First(nn.Module):
    """The first of several projections of one input: computes them all."""

    def __init__(self, product: nn.Module, widths: list[int]) -> None:
        super().__init__()
        self.product, self.widths = product, widths
        self.pieces: list[Tensor] = []

    def forward(self, hidden_states: Tensor | Scaled) -> Tensor:
        """Return the first projection and keep the others."""
        first: Tensor
        first, *self.pieces = self.product(hidden_states).split(self.widths, -1)
        return first


class _Next(nn.Module):
    """One of the other projections: hands out what the first computed."""

    def __init__(self, first: _First) -> None:
        super().__init__()
        self._first = [first]  # in a list, so that it is not registered twice

    def forward(self, hidden_states: Tensor | Scaled) -> Tensor:
        """Return the projection of the same input."""
        del hidden_states
        pieces: list[Tensor] = self._first[0].pieces
        return pieces.pop(0)


def fuse(network: PreTrainedModel) -> Fused:
    """Exchange what can be exchanged, in place."""
    done = Fused(packed=lay_out_packed(network))
    for name, module in list(network.named_modules()):
        if isinstance(module, Fp8Linear):
            module.scaling = scale_rows
        if type(module).__name__.endswith("RMSNorm"):
            norm = fused_norm(module)
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
    done.residuals = fuse_residuals(network)
    if done.residuals:
        done.scaled = _scale_in_norms(network.get_decoder())
    done.rotary = _delay_rotary(network)
    return done


def _can_merge(parts: list[nn.Linear]) -> bool:
    """Whether projections are of one kind whose weights can be put below each other."""
    packed = [part for part in parts if isinstance(part, PackedLinear)]
    if len(packed) == len(parts):
        return PackedLinear.can_be_put_beside(packed)
    return {type(part) for part in parts} in ({nn.Linear}, {Fp8Linear})


def _number_type(projection: nn.Linear) -> torch.dtype:
    """Return the type of what a projection takes."""
    return projection.kind if isinstance(projection, Fp8Linear | PackedLinear) else projection.weight.dtype


def _concatenate(parts: list[nn.Linear]) -> nn.Linear:
    """Return one projection that gives the parts' outputs side by side."""
    scaled = [part for part in parts if isinstance(part, Fp8Linear)]
    if scaled:
        both = Fp8Linear.beside(scaled)
        both.scaling = scale_rows
        return both
    packed = [part for part in parts if isinstance(part, PackedLinear)]
    if packed:
        return PackedLinear.beside(packed)
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
    if not _can_merge(parts):
        return 0
    first = _First(_concatenate(parts), [part.out_features for part in parts])
    module.q_proj, module.k_proj, module.v_proj = first, _Next(first), _Next(first)
    return 1


def _merge_gate(module: Any) -> int:  # noqa: ANN401 - a gated block of any model
    """Merge gate and up of a gated block and fuse its activation; return 1 if it was done."""
    parts = [module.gate_proj, module.up_proj]
    kind = _activation_kind(getattr(module, "act_fn", None))
    if kind is None or not _can_merge(parts):
        return 0
    down = module.down_proj
    gate: Callable[[Tensor, int], Tensor | Scaled]
    # A gate of another rounding may move a scale in fp8, and with it every number's rounding.
    gate, bound = (scaled_gated, 1e-1) if isinstance(down, Fp8Linear) else (gated, 2e-2)
    weight = module.gate_proj.weight
    generator = torch.Generator(weight.device).manual_seed(0)
    x = torch.randn(4, module.gate_proj.in_features, generator=generator, device=weight.device).to(
        _number_type(parts[0])
    )
    with torch.inference_mode():
        want = module(x).float()
        got = down(gate(torch.cat([part(x) for part in parts], -1), kind)).float()
    if not (got - want).norm() <= bound * want.norm():
        return 0
    both = _concatenate(parts)

    def forward(hidden_states: Tensor | Scaled) -> Tensor:
        out: Tensor = down(gate(both(hidden_states), kind))
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


class _Reached(Exception):
    """A probe was called."""


class _Probe(nn.Module):
    """Stands in for a projection, to see what it is given."""

    given: object = None

    def forward(self, hidden_states: object) -> Tensor:
        """Keep the input and go no further."""
        self.given = hidden_states
        raise _Reached


def _hands_on(attention: Any) -> bool:  # noqa: ANN401 - an attention block of any model
    """Whether an attention block asks of its input no more than its shape, and hands it on as it is."""
    first, probe = attention.q_proj, _Probe()
    given = first.product.scaling(torch.ones(1, 3, first.product.in_features, device=first.product.weight.device))
    attention.q_proj = probe
    try:
        attention(hidden_states=given, position_embeddings=None, attention_mask=None)
    except _Reached:
        return probe.given is given
    except (AttributeError, TypeError):
        return False  # it wants a tensor
    finally:
        attention.q_proj = first
    return False


def _scale_in_norms(decoder: Any) -> int:  # noqa: ANN401 - a decoder of any model, its residuals fused
    """Let norms hand on their numbers in fp8 where a product takes them so; return how many do."""
    for layer in decoder.layers:
        attention, gate = layer.self_attn, getattr(layer.mlp, "both_proj", None)
        fp8 = isinstance(getattr(attention.q_proj, "product", None), Fp8Linear)
        layer.input_layernorm.scaled = fp8 and _hands_on(attention)
        layer.post_attention_layernorm.scaled = isinstance(gate, Fp8Linear)
    return sum(
        norm.scaled for layer in decoder.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)
    )


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
    config = network.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("partial_rotary_factor", 1.0) != 1.0:
        return None  # a delay of another model of the family turns heads at once in this one's steps
    if isinstance(plain, RotaryDelay):
        return plain
    if plain is None or not isinstance(size, int) or not rotates_halves(plain, size):
        return None
    delay = RotaryDelay(plain)
    source.apply_rotary_pos_emb = delay  # type: ignore[union-attr]
    return delay
