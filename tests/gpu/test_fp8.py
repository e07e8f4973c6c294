"""Products in fp8: kernels and fused layers against plain PyTorch; `TRITON_INTERPRET=1` runs them on a CPU."""

import copy
import os

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.blocks import FusedNorm
from endmark.worker.engine.cuda.fusion import fuse
from endmark.worker.engine.cuda.kernels.gated import GELU_TANH, SILU, gated, scaled_gated
from endmark.worker.engine.cuda.kernels.norms import rms_norm, scaled_rms_norm
from endmark.worker.engine.cuda.kernels.scaling import scale_rows
from endmark.worker.engine.fp8 import FP8, Fp8Linear, Scaled, scaled_rows
from endmark.worker.models.weights import scale_to_fp8
from tests.engine.conftest import CONFIGS, SHAPE
from tests.gpu.test_kernels import error, random

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
KIND = torch.float32 if INTERPRETED else torch.bfloat16
LAYERS = SHAPE["num_hidden_layers"]
# In bf16 merged products round otherwise, which moves scales, and with them the rounding of whole rows.
SAME = 1e-5 if INTERPRETED else 0.15
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("rotary_stays"),
    pytest.mark.skipif(
        not INTERPRETED and (not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9)),
        reason="the card has no fp8",
    ),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def _rounding(monkeypatch):
    """Triton's interpreter loses the carry where it rounds to fp8 (127 becomes 64): torch rounds instead."""
    if not INTERPRETED:
        return
    import triton.language as tl
    from triton.runtime import interpreter

    plain = interpreter._convert_float

    def convert(values, source, target, rounding):
        if target != tl.float8e4nv:
            return plain(values, source, target, rounding)
        assert source == tl.float32
        return torch.from_numpy(np.ascontiguousarray(values)).to(FP8).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def assert_equal(got: Scaled, want: Scaled):
    """The same numbers; a card's division is not rounded as a CPU's, so few may go the other way."""
    assert got.shape == want.shape
    assert torch.allclose(got.scale, want.scale, rtol=1e-6)
    other = (got.values.float() != want.values.float()).float().mean().item()
    assert other == 0 if INTERPRETED else other < 1e-3
    assert error(got.numbers(), want.numbers()) < 2e-3


def test_a_row_is_scaled_to_the_largest_number():
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-3, 0.0, 3e-3]])
    got = scaled_rows(x)
    assert got.values.float().abs().amax(-1).tolist() == [448.0, 0.0, 448.0]
    assert error(got.numbers(), x) < 0.04  # three bits of mantissa: at most 1/16 a number


@pytest.mark.parametrize("shape", [(5, 576), (1, 3, 64), (2, 14336)])
def test_scaling_rows(shape):
    x = random(*shape, seed=1, dtype=KIND)
    x[..., 0, :] = 0
    assert_equal(scale_rows(x), scaled_rows(x))


def test_a_row_of_nan_spoils_no_other():
    """The scale is a row's own, and a NaN is not rounded to a number."""
    x = random(3, 64, seed=1, dtype=KIND)
    x[1, 7] = torch.nan
    layer = Fp8Linear(scaled_rows(random(32, 64, seed=2, dtype=KIND)), None, KIND)
    layer.scaling = scale_rows
    assert layer(x).isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("width", [192, 4096])
def test_a_norm_hands_on_what_it_would_round(offset, width):
    x, residual = (random(3, 5, width, seed=seed, dtype=KIND) for seed in (1, 2))
    weight = random(width, seed=3, dtype=KIND)
    for added in (None, residual):
        want, total = rms_norm(x, weight, 1e-6, offset=offset, residual=added)
        got, summed = scaled_rms_norm(x, weight, 1e-6, offset=offset, residual=added)
        assert_equal(got, scaled_rows(want))
        assert torch.equal(summed, total)


@pytest.mark.parametrize("kind", [SILU, GELU_TANH])
@pytest.mark.parametrize("width", [1100, 14336])
def test_a_gate_hands_on_what_it_would_round(kind, width):
    both = random(4, 2 * width, seed=1, dtype=KIND)
    assert_equal(scaled_gated(both, kind), scaled_rows(gated(both, kind)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 64, 300])
def test_products(rows, bias):
    """Of the same fp8 numbers in fp64; the card adds them up in fewer bits than fp32 has, and 16 come out."""
    x, weight = random(rows, 192, seed=1, dtype=KIND), random(160, 192, seed=2, dtype=KIND)
    added = random(160, seed=3, dtype=KIND) if bias else None
    layer = Fp8Linear(scaled_rows(weight), added, KIND)
    want = scaled_rows(x).numbers().double() @ scaled_rows(weight).numbers().double().T
    want = want + added.double() if bias else want
    got = layer(x)
    assert (got.dtype, got.shape) == (KIND, want.shape)
    assert error(got, want) < 5e-3
    assert 1e-3 < error(got, x.double() @ weight.double().T + (added.double() if bias else 0)) < 6e-2


def test_parts_side_by_side():
    """One with a bias and one without."""
    x = random(3, 64, seed=1, dtype=KIND)
    weights = [random(size, 64, seed=size, dtype=KIND) for size in (32, 16)]
    parts = [Fp8Linear(scaled_rows(weight), None, KIND) for weight in weights]
    parts[1].bias = nn.Parameter(random(16, seed=3, dtype=KIND))
    want = torch.cat([part(x) for part in parts], -1)
    assert error(Fp8Linear.beside(parts)(x), want) < (1e-6 if INTERPRETED else 5e-3)
    assert all(part.weight.numel() == 0 for part in parts)


def build(name):
    """A model in fp8 with norms that are no ones."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager", dtype=KIND).eval()
    for key, weight in model.named_parameters():
        if "norm" in key:
            weight.data = 1 + torch.randn_like(weight) / 4
    return model.to(DEVICE)


@torch.inference_mode()
def logits(model):
    tokens = torch.arange(3, 17, device=DEVICE).view(1, -1)
    return model(tokens, use_cache=False).logits


@pytest.mark.parametrize(
    ("name", "scaled"),
    [
        ("llama", 2 * LAYERS),
        ("qwen2", 2 * LAYERS),  # its projections have biases
        ("qwen3", 2 * LAYERS),  # it norms queries and keys, which stay in 16 bits
        ("gemma2", 0),  # its norms are added up otherwise: the products scale what they get
    ],
)
def test_fused_layers_multiply_the_numbers_of_the_plain_ones(name, scaled):
    """The same roundings happen inside norms and gates; the product of a merged weight is that of its parts."""
    model = build(name)
    exact = logits(model)
    done, total = scale_to_fp8(model)
    assert done == total == 7 * LAYERS
    assert type(model.lm_head) is nn.Linear
    want = logits(model)
    fused = fuse(model)
    assert (fused.projections, fused.gates, fused.scaled) == (LAYERS, LAYERS, scaled)
    got = logits(model)
    assert error(got, want) < SAME
    assert 1e-3 < error(got, exact) < (0.3 if INTERPRETED else 0.5)


def test_an_attention_that_looks_at_its_input_is_given_16_bits():
    """Such a block would fail on numbers in fp8, whose type and scale it does not expect."""
    model = build("llama")
    scale_to_fp8(model)
    kind = type(model.model.layers[0].self_attn)

    def forward(self, hidden_states, **options):
        return kind.forward(self, hidden_states=hidden_states * 1.0, **options)

    looking = type("LookingAttention", (kind,), {"forward": forward})
    model.model.layers[1].self_attn.__class__ = looking
    want = logits(model)
    assert fuse(model).scaled == 2 * LAYERS - 1
    assert error(logits(model), want) < SAME


def test_a_norm_in_fp8_is_the_one_in_16_bits_rounded():
    norm = FusedNorm(nn.Parameter(random(64, seed=3, dtype=KIND)), 1e-6, offset=False)
    x, residual = (random(3, 64, seed=seed, dtype=KIND) for seed in (1, 2))
    other = copy.copy(norm)
    other.scaled = True
    with torch.inference_mode():
        assert_equal(other(x), scaled_rows(norm(x)))
        assert_equal(other.add(x, residual)[0], scaled_rows(norm.add(x, residual)[0]))
