"""Blocks whose residuals are added inside norms, which hand on fp8 where a product takes it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from endmark.worker.engine.cuda.kernels.norms import rms_norm, scaled_rms_norm
from endmark.worker.engine.fp8 import Scaled


class FusedNorm(nn.Module):
    """An RMS norm in one launch; where `scaled` is set, by whoever knows that its output is read so, in fp8."""

    def __init__(self, weight: nn.Parameter, eps: float, *, offset: bool) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = weight, eps, offset
        self.scaled = False

    def forward(self, hidden_states: Tensor) -> Tensor | Scaled:
        """Return the norm of (…, width)."""
        return self._norm(hidden_states, None)[0]

    def add(self, hidden_states: Tensor, residual: Tensor) -> tuple[Tensor | Scaled, Tensor]:
        """Return the norm of the sum, and the sum."""
        return self._norm(hidden_states, residual)

    def _norm(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor | Scaled, Tensor]:
        norm = scaled_rms_norm if self.scaled else rms_norm
        return norm(x, self.weight, self.eps, offset=self.offset, residual=residual)


def fused_norm(module: nn.Module) -> FusedNorm | None:
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


_COMMON = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}


def fuse_residuals(network: PreTrainedModel) -> int:
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
        self.value: Tensor | Scaled | None = None

    def take(self, total: Tensor, norm: FusedNorm) -> Tensor | Scaled:
        """Return the norm of the sum: the one at hand if it is of this very tensor."""
        value, known = self.value, self.total is total
        self.total = self.value = None
        return value if known and value is not None else norm.forward(total)


class _TakeNormed(nn.Module):
    """The last norm, which the last block has computed."""

    def __init__(self, norm: FusedNorm, normed: _Normed) -> None:
        super().__init__()
        self.norm, self._normed = norm, normed

    def forward(self, hidden_states: Tensor) -> Tensor | Scaled:
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
