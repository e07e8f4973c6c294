"""Fused layers against the model that they stand for; `TRITON_INTERPRET=1` runs them on a CPU."""

import copy
import os

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.activations import ACT2FN

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda import fusion
from endmark.worker.engine.cuda.blocks import FusedNorm, _Normed
from endmark.worker.engine.cuda.fusion import _delay_rotary, fuse
from endmark.worker.engine.cuda.kernels.gated import GELU_TANH, SILU
from tests.engine.conftest import CONFIGS, SHAPE

# a gate of large scores overflows to the 0 that it should be, of which the interpreter's NumPy warns
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("rotary_stays"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
LAYERS = SHAPE["num_hidden_layers"]


def build(config):
    """A model with weights that are no ones: norms of ones would hide how they are multiplied."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = 1 + torch.randn_like(weight) / 4
    return model.to(DEVICE)


@torch.inference_mode()
def logits(model):
    tokens = torch.arange(3, 17, device=DEVICE).view(1, -1)
    return model(tokens, use_cache=False).logits


@torch.inference_mode()
def assert_same_after_fusing(model):
    """Fuse a model, and return what was exchanged; its scores have stayed what they were."""
    want = logits(model)
    done = fuse(model)
    got = logits(model)
    assert ((got - want).norm() / want.norm()).item() < 1e-5
    return done


@pytest.mark.parametrize(
    ("name", "norms", "residuals"),
    [
        ("llama", 2 * LAYERS + 1, LAYERS),
        ("qwen2", 2 * LAYERS + 1, LAYERS),  # its projections have biases
        ("qwen3", 4 * LAYERS + 1, LAYERS),  # it norms queries and keys
        ("gemma2", 4 * LAYERS + 1, 0),  # one plus the weight; four norms a block
    ],
)
def test_what_is_exchanged_changes_no_score(name, norms, residuals):
    done = assert_same_after_fusing(build(CONFIGS[name]))
    assert (done.norms, done.residuals, done.projections, done.gates) == (norms, residuals, LAYERS, LAYERS)
    assert done.rotary is not None


def test_blocks_of_another_shape_are_left_as_they_are():
    """They have the parts of the common one, put together otherwise: fused, they gave other numbers."""
    model = build(CONFIGS["llama"])

    def forward(self, hidden_states, **options):
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **options)
        return hidden_states + attended + self.mlp(self.post_attention_layernorm(hidden_states))

    kind = type(model.model.layers[0])
    parallel = type("ParallelBlock", (kind,), {"forward": forward})
    for layer in model.model.layers:
        layer.__class__ = parallel
    assert assert_same_after_fusing(model).residuals == 0


def test_a_block_with_one_part_more_is_left_as_it_is():
    model = build(CONFIGS["llama"])
    model.model.layers[1].extra = nn.Identity()
    assert assert_same_after_fusing(model).residuals == 0


def test_a_norm_that_centres_is_left_as_it_is():
    """Its name and its parts are those of an RMS norm; its numbers are not."""

    class CentredRMSNorm(nn.Module):
        def __init__(self, weight, eps):
            super().__init__()
            self.weight, self.variance_epsilon = weight, eps

        def forward(self, x):
            centred = x - x.mean(-1, keepdim=True)
            return (
                centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight
            )

    model = build(CONFIGS["llama"])
    layer = model.model.layers[0]
    layer.input_layernorm = CentredRMSNorm(layer.input_layernorm.weight, 1e-6)
    done = assert_same_after_fusing(model)
    assert (done.norms, done.residuals) == (2 * LAYERS, 0)


def test_a_gate_of_another_activation_is_left_as_it_is():
    assert assert_same_after_fusing(build(LlamaConfig(**SHAPE, hidden_act="relu"))).gates == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("silu", SILU), ("gelu_pytorch_tanh", GELU_TANH), ("gelu", None), ("relu", None)]
)
def test_an_activation_is_known_by_its_numbers(name, kind):
    assert fusion._activation_kind(ACT2FN[name]) == kind


def test_packed_projections_are_not_merged():
    """A packed weight has no rows to be put below each other."""

    class Packed(nn.Linear):
        pass

    model = build(CONFIGS["llama"])
    block = model.model.layers[0].self_attn
    block.k_proj.__class__ = Packed
    assert assert_same_after_fusing(model).projections == LAYERS - 1


def test_a_normed_sum_is_handed_on_for_its_own_tensor_alone_and_once():
    """Of another tensor the norm is computed: the one at hand is of the block before."""
    norm = FusedNorm(nn.Parameter(torch.rand(64, device=DEVICE)), 1e-6, offset=False)
    total, other = torch.rand(2, 3, 64, device=DEVICE)
    kept, normed = torch.zeros(3, 64, device=DEVICE), _Normed()
    with torch.inference_mode():
        normed.total, normed.value = total, kept
        assert normed.take(total, norm) is kept
        assert torch.equal(normed.take(total, norm), norm(total))
        normed.total, normed.value = total, kept
        assert torch.equal(normed.take(other, norm), norm(other))
        normed.total, normed.value = total, kept
        assert torch.equal(normed.take(total.clone(), norm), norm(total))


@pytest.mark.parametrize(("share", "put_off"), [(0.5, False), (1.0, True)])
def test_a_rotation_of_a_part_of_each_head_is_not_put_off(share, put_off):
    """The kernel that writes the cache turns whole heads."""
    model = build(CONFIGS["llama"])
    model.config = copy.deepcopy(model.config)
    model.config.rope_parameters = {**model.config.rope_parameters, "partial_rotary_factor": share}
    assert (_delay_rotary(model) is not None) == put_off
