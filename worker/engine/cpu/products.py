"""Matrix products on a CPU with weights that oneDNN has laid out for them once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_TYPICAL_ROWS = 64  # for which oneDNN picks the layout; it computes any number of rows in it


class RoundedLinear(nn.Linear):
    """A linear layer in bf16 between fp32 numbers: its input is rounded to bf16, as its weight has been."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round a weight of shape (out, in)."""
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.to(torch.bfloat16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product (…, out_features), in the type of x."""
        return linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


class PackedLinear(nn.Module):
    """One linear layer, or several of the same input as one product whose outputs stand side by side."""

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        """Lay the weights out; see `can_pack`."""
        super().__init__()
        weight = torch.cat([part.weight.data for part in parts])
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        self._bias: Tensor | None = None
        if any(part.bias is not None for part in parts):
            none = [weight.new_zeros(part.out_features) for part in parts]
            biases = [part.bias.data if part.bias is not None else none[at] for at, part in enumerate(parts)]
            self._bias = torch.cat(biases)
        self._kind = weight.dtype  # that is multiplied in
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product (…, out_features) of (…, in_features), in the type of x."""
        rounded = x.to(self._kind)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rounded, self._weight, self._bias, "none", [], "")
        return product.to(x.dtype)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the product plus a residual of its shape, in one pass where their types are the same."""
        if self._kind != residual.dtype:
            return self.forward(x).add_(residual)
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self._bias, "add")
        return total


_PACKED_KINDS = {(nn.Linear, torch.float32), (RoundedLinear, torch.bfloat16)}


def can_pack(module: object) -> bool:
    """Whether a module is a product in fp32 on a CPU, or one rounded to bf16, whose weight oneDNN may lay out."""
    return (
        isinstance(module, nn.Linear)
        and module.weight.device.type == "cpu"
        and (type(module), module.weight.dtype) in _PACKED_KINDS
        and torch.backends.mkldnn.is_available()
    )


def packed(module: nn.Module) -> nn.Module:
    """Return the product with its weight laid out, or the module itself where it cannot be."""
    if not can_pack(module):
        return module
    assert isinstance(module, nn.Linear)
    return PackedLinear([module])


def packed_together(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Return products of one input as a single one, or as they are where one of them cannot be packed."""
    plain = [module for module in modules if isinstance(module, nn.Linear) and can_pack(module)]
    alike = len(plain) == len(modules) and len({module.weight.dtype for module in plain}) == 1
    return [PackedLinear(plain)] if alike else list(modules)


def pack_products(network: nn.Module) -> int:
    """Exchange every linear layer of a network that can be packed, in place; return how many were."""
    plain = [(name, module) for name, module in network.named_modules() if can_pack(module)]
    for name, module in plain:
        network.set_submodule(name, packed(module))
    return len(plain)
