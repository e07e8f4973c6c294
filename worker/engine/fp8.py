"""Products in fp8 (e4m3): weights with a scale a row, activations with a scale a token; in plain PyTorch.

A number x is kept as the fp8 number nearest to x / scale. The scale is the largest magnitude of its row over 448,
the largest number of e4m3 (Micikevicius et al., FP8 Formats for Deep Learning, 2022): nothing overflows, and a row
that holds a NaN spoils no other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
LEAST = 1e-12  # a row of zeros has a scale too
MULTIPLE = 16  # both sizes of a weight must be multiples of it, says cuBLASLt
CAPABILITY = (8, 9)  # the first cards that multiply in fp8


@dataclass(frozen=True, slots=True)
class Scaled:
    """Numbers in fp8: `values` (…, width) times `scale` (rows, 1) in fp32; all but the last dimension are rows."""

    values: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the numbers."""
        return self.values.shape

    def numbers(self) -> Tensor:
        """Return them in fp32, (…, width)."""
        flat = self.values.float().reshape(len(self.scale), -1)
        return (flat * self.scale).view(self.shape)


def scaled_rows(x: Tensor) -> Scaled:
    """Return (…, width) in fp8 with a scale a row; what the kernels do too, and the oracle of them."""
    flat = x.float().reshape(-1, x.shape[-1])
    scale = flat.abs().amax(-1, keepdim=True).clamp(min=LEAST) / LARGEST
    return Scaled((flat / scale).to(FP8).view(x.shape), scale)


class Fp8Linear(nn.Linear):
    """A linear layer whose weight is in fp8; on a CPU the same fp8 numbers are multiplied in fp32.

    `weight` is (out, in) in fp8, `scale` (1, out) in fp32; `kind` is the type of what comes out.
    """

    scale: Tensor

    def __init__(self, weight: Scaled, bias: Tensor | None, kind: torch.dtype) -> None:
        outputs, inputs = weight.shape
        super().__init__(inputs, outputs, bias=False, device="meta")
        self.weight = nn.Parameter(weight.values, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.register_buffer("scale", weight.scale.view(1, -1), persistent=False)
        self.kind = kind
        self.scaling: Callable[[Tensor], Scaled] = scaled_rows  # of what comes in; on a card a kernel does it

    @staticmethod
    def takes(inputs: int, outputs: int) -> bool:
        """Whether a weight of these sizes can be multiplied in fp8."""
        return inputs % MULTIPLE == 0 and outputs % MULTIPLE == 0

    @classmethod
    def beside(cls, parts: Sequence["Fp8Linear"]) -> "Fp8Linear":
        """Return one layer that gives the parts' outputs side by side; their weights are emptied."""
        weight = Scaled(
            torch.cat([part.weight.data for part in parts]),
            torch.cat([part.scale for part in parts], 1).view(-1, 1),
        )
        bias = None
        if any(part.bias is not None for part in parts):
            nothing = [part.scale.new_zeros(part.out_features, dtype=part.kind) for part in parts]
            bias = torch.cat(
                [
                    zeros if part.bias is None else part.bias.data
                    for part, zeros in zip(parts, nothing, strict=True)
                ]
            )
        for part in parts:
            part.weight.data = part.weight.data.new_empty(0)
        return cls(weight, bias, parts[0].kind)

    def forward(self, x: Tensor | Scaled) -> Tensor:
        """Return (…, out) of (…, in), which a kernel may have scaled already."""
        given = x if isinstance(x, Scaled) else self.scaling(x)
        rows = given.values.view(-1, self.in_features)
        if rows.is_cuda:
            out = torch._scaled_mm(
                rows,
                self.weight.t(),
                scale_a=given.scale,
                scale_b=self.scale,
                bias=self.bias,
                out_dtype=self.kind,
                use_fast_accum=True,
            )
        else:
            out = nn.functional.linear(rows.float(), self.weight.float()) * given.scale * self.scale
            out = (out if self.bias is None else out + self.bias).to(self.kind)
        return out.view(*given.shape[:-1], self.out_features)
