"""Products with packed weights against bitsandbytes' own unpacking; `TRITON_INTERPRET=1` runs them on a CPU."""

import os

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import nn

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.fusion import fuse
from endmark.worker.engine.cuda.kernels.packed_product import unpack
from endmark.worker.engine.cuda.packed import FEW, PackedLinear, can_be_laid_out, lay_out_packed
from tests.engine.conftest import CONFIGS
from tests.gpu.test_fusion import build, logits

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# the interpreter cuts numbers off where a card rounds them to bf16
KINDS = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]


def packed_layer(inputs, outputs, kind, *, bias=False, nested=True):
    torch.manual_seed(inputs + outputs)
    layer = Linear4bit(inputs, outputs, bias, compute_dtype=kind, compress_statistics=nested, quant_type="nf4")
    weight = (torch.randn(outputs, inputs) / 20).to(kind)
    layer.weight = Params4bit(weight, requires_grad=False, compress_statistics=nested, quant_type="nf4")
    if bias:
        layer.bias = nn.Parameter(torch.randn(outputs).to(kind), requires_grad=False)
    layer = layer.to(DEVICE)
    if layer.weight.quant_state is None:  # a CPU packs at once
        layer.weight = layer.weight._quantize(torch.device(DEVICE))
    return layer


def plain_weight(layer):
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (256, 96), (1024, 320), (192, 2056)])
def test_weights_laid_out_anew_unpack_into_the_same_values(inputs, outputs, kind):
    layer = packed_layer(inputs, outputs, kind)
    want = plain_weight(layer)
    assert torch.equal(unpack(PackedLinear.of(layer, kind).packed, kind), want.to(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33, FEW, FEW + 1])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 64), (1024, 320)] if INTERPRETED else [(64, 64), (1024, 320), (4096, 12288)]
)
def test_a_product_is_that_of_the_plain_weight(inputs, outputs, rows, kind):
    layer = packed_layer(inputs, outputs, kind, bias=True)
    weight, bias = plain_weight(layer).double(), layer.bias.double()
    x = torch.randn(2, rows, inputs, device=DEVICE).to(kind)[:1]
    want = x.double() @ weight.T + bias
    got = PackedLinear.of(layer, kind)(x)
    assert got.dtype == kind
    assert got.shape == (1, rows, outputs)
    assert ((got.double() - want).norm() / want.norm()).item() < (4e-3 if kind is torch.bfloat16 else 6e-4)


def test_a_row_gets_the_same_numbers_whatever_is_beside_it():
    """Not one number of a row may come from another's, and no sum depends on which program was faster."""
    kind = KINDS[-1]
    layer = PackedLinear.of(packed_layer(1024, 320, kind), kind)
    x = torch.randn(16, 1024, device=DEVICE).to(kind)
    once = layer(x)
    assert torch.equal(layer(x), once)
    assert torch.equal(layer(torch.cat([x[:5], -x[5:]]))[:5], once[:5])


def test_layers_beside_each_other_are_the_same_layers():
    kind = KINDS[-1]
    layers = [packed_layer(1024, outputs, kind, bias=outputs == 64) for outputs in (128, 64, 64)]
    parts = [PackedLinear.of(layer, kind) for layer in layers]
    x = torch.randn(3, 1024, device=DEVICE).to(kind)
    want = torch.cat([part(x) for part in parts], -1)
    assert PackedLinear.can_be_put_beside(parts)
    assert torch.equal(PackedLinear.beside(parts)(x), want)


def test_parts_that_share_a_factor_of_scales_are_not_put_together():
    kind = KINDS[-1]
    parts = [PackedLinear.of(packed_layer(64, outputs, kind), kind) for outputs in (64, 64)]
    assert not PackedLinear.can_be_put_beside(parts)


@pytest.mark.parametrize("change", ["width", "nested", "fp4"])
def test_what_is_packed_otherwise_stays_bitsandbytes(change):
    layer = packed_layer(96 if change == "width" else 128, 64, KINDS[-1], nested=change != "nested")
    if change == "fp4":
        layer.weight.quant_state.quant_type = "fp4"
    assert not can_be_laid_out(layer)
    holder = nn.Sequential(layer)
    assert lay_out_packed(holder) == 0
    assert holder[0] is layer


@torch.inference_mode()
def test_a_model_with_packed_layers_keeps_its_scores():
    """Fused, with queries, keys and values in one product, against bitsandbytes' layers."""
    model = build(CONFIGS["llama"])
    kind = torch.float32 if INTERPRETED else torch.bfloat16
    model = model.to(kind)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "proj" in name:
            layer = Linear4bit(
                module.in_features, module.out_features, False, compute_dtype=kind, quant_type="nf4"
            )
            layer.weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")._quantize(
                torch.device(DEVICE)
            )
            model.set_submodule(name, layer)
    want = logits(model).float()
    done = fuse(model)
    assert done.packed > 0
    got = logits(model).float()
    assert ((got - want).norm() / want.norm()).item() < (1e-5 if INTERPRETED else 2e-2)
