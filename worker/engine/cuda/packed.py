"""NF4 layers that stay packed on a card: few rows are multiplied as the weights lie, many after unpacking."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from endmark.worker.engine.cuda.kernels.packed_product import BLOCK, LEVELS, PackedWeight, packed_product, unpack
from endmark.worker.engine.four_bits import Linear4bit, Params4bit

FEW = 64  # rows up to which unpacking in registers is the faster way
_NESTED = 256  # scales that share a factor
_KINDS = (torch.bfloat16, torch.float16)  # on a card; where kernels are interpreted, fp32 too


class PackedLinear(nn.Linear):
    """A linear layer over a packed weight, which is laid out anew; `kind` is the type of what comes in and out."""

    def __init__(self, weight: PackedWeight, bias: Tensor | None, kind: torch.dtype) -> None:
        super().__init__(weight.inputs, weight.outputs, bias=False, device="meta")
        del self.weight
        self.weight = nn.Parameter(weight.codes, requires_grad=False)  # where a layer's device is looked up
        self.packed, self.kind = weight, kind
        if bias is not None:
            self.bias = nn.Parameter(bias.to(kind), requires_grad=False)

    @classmethod
    def of(cls, layer: Linear4bit, kind: torch.dtype) -> "PackedLinear":
        """Return the stand-in of a layer for which `can_be_laid_out` holds; the layer's own weight is emptied."""
        assert isinstance(layer.weight, Params4bit)
        state = layer.weight.quant_state
        outputs, blocks = layer.out_features, layer.in_features // BLOCK
        data = layer.weight.data.view(outputs, blocks, BLOCK // 2)
        pairs = torch.stack([data >> 4, data & 15], -1).view(outputs, blocks, BLOCK)
        codes = (pairs[..., : BLOCK // 2] << 4) | pairs[..., BLOCK // 2 :]
        factors = state.state2.absmax
        weight = PackedWeight(
            codes.transpose(0, 1).contiguous(),
            state.absmax.view(outputs, blocks).t().contiguous(),
            state.state2.code.float(),
            torch.stack([factors, state.offset.to(factors).expand_as(factors)], 1).contiguous(),
            state.code.float(),
            outputs,
        )
        layer.weight.data = layer.weight.data.new_empty(0)  # its memory goes before the next layer's turn
        return cls(weight, None if layer.bias is None else layer.bias.data, kind)

    @staticmethod
    def can_be_put_beside(parts: Sequence["PackedLinear"]) -> bool:
        """Whether no factor of scales would belong to two parts."""
        return all(part.out_features * (part.in_features // BLOCK) % _NESTED == 0 for part in parts)

    @classmethod
    def beside(cls, parts: Sequence["PackedLinear"]) -> "PackedLinear":
        """Return one layer that gives the parts' outputs side by side."""
        weights = [part.packed for part in parts]
        whole = PackedWeight(
            torch.cat([weight.codes for weight in weights], 1),
            torch.cat([weight.scale_codes for weight in weights], 1),
            weights[0].scale_levels,
            torch.cat([weight.scale_factors for weight in weights]),
            weights[0].levels,
            sum(weight.outputs for weight in weights),
        )
        for part in parts:
            part.weight.data = part.weight.data.new_empty(0)
            part.packed = whole  # none keeps the memory of its own
        bias = None
        if any(part.bias is not None for part in parts):
            rows = [
                whole.levels.new_zeros(part.out_features, dtype=part.kind) if part.bias is None else part.bias.data
                for part in parts
            ]
            bias = torch.cat(rows)
        return cls(whole, bias, parts[0].kind)

    def forward(self, x: Tensor) -> Tensor:
        """Return (…, out) of (…, in)."""
        rows = x.reshape(-1, self.in_features).to(self.kind)
        if len(rows) > FEW:
            out = nn.functional.linear(rows, unpack(self.packed, self.kind), self.bias)
        else:
            out = packed_product(rows, self.packed)
            out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)


def can_be_laid_out(layer: Linear4bit) -> bool:
    """Whether a layer is packed as the mission's models are: NF4 in blocks of 64, its scales packed too."""
    state = layer.weight.quant_state if isinstance(layer.weight, Params4bit) else None
    return (
        state is not None
        and state.quant_type == "nf4"
        and state.blocksize == BLOCK
        and bool(state.nested)
        and state.state2.blocksize == _NESTED
        and layer.in_features % BLOCK == 0
        and torch.allclose(state.code.float().cpu(), torch.tensor(LEVELS), atol=1e-6)
    )


def lay_out_packed(network: nn.Module) -> int:
    """Exchange the layers of a network that are still packed, in place; return how many."""
    done = 0
    for name, module in list(network.named_modules()):
        if isinstance(module, Linear4bit) and can_be_laid_out(module):
            kind = module.compute_dtype or torch.float32
            if kind in _KINDS or not module.weight.is_cuda:
                network.set_submodule(name, PackedLinear.of(module, kind))
                done += 1
    return done
