"""Blocks without modules and laid-out weights: which are exchanged, and that they compute the same."""

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GraniteConfig,
    MixtralConfig,
    PhiConfig,
    SmolLM3Config,
)

from endmark.jobs.errors import ModelError, UsageError
from endmark.worker.engine.attention import PLAIN
from endmark.worker.engine.cpu.blocks import speed_up
from endmark.worker.engine.cpu.products import PackedLinear, RoundedLinear, can_pack, packed_together
from endmark.worker.models.adapters import apply_adapter
from endmark.worker.models.loader import load_engine, load_model
from endmark.worker.models.weights import check_mode, expand, round_to_bf16
from tests.engine.conftest import SHAPE, build_model
from tests.engine.test_adapters import make_adapter
from tests.engine.test_plain_runner import build_engine, make_requests, run
from tests.integration.tiny_model import save_tiny_model

# transformers itself still sets an option that it calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

OTHERS = {
    "gemma, whose norms add 1 to their weights": (GemmaConfig(**SHAPE, head_dim=32), 2),
    "granite, which scales what a block adds": (
        GraniteConfig(**SHAPE, residual_multiplier=0.5, attention_multiplier=0.3, embedding_multiplier=3.0),
        0,
    ),
    "smollm3, of whose blocks some rotate nothing": (SmolLM3Config(**SHAPE, no_rope_layers=[1, 0]), 1),
    "mixtral, with experts": (MixtralConfig(**SHAPE, num_local_experts=4), 0),
    "phi, of whose heads a part is rotated": (PhiConfig(**SHAPE, partial_rotary_factor=0.5), 0),
}


def random_model(config):
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=PLAIN, dtype=torch.float32)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "expected"), [("llama", 2), ("mistral-window", 2), ("qwen2", 2), ("qwen3", 2), ("gemma2", 0)]
)
def test_the_common_kind_of_block_is_exchanged(name, expected):
    assert speed_up(build_model(name)) == (expected, 2)


@pytest.mark.parametrize("kind", OTHERS)
def test_answers_stay_whatever_the_blocks_are(kind):
    config, expected = OTHERS[kind]
    plain = run(build_engine(random_model(config)), make_requests())
    network = random_model(config)
    assert speed_up(network) == (expected, 2)
    fast = run(build_engine(network), make_requests())
    assert {key: item.token_ids for key, item in fast.items()} == {
        key: item.token_ids for key, item in plain.items()
    }


def test_no_plain_product_is_left_and_no_weight_stands_twice():
    """But that of a head which is the embedding as well."""
    network = build_model("qwen2")
    before = sum(item.numel() for item in network.parameters())
    speed_up(network)
    assert not any(can_pack(module) for module in network.modules())
    left = sum(item.numel() for item in network.parameters())
    assert left == network.get_input_embeddings().weight.numel() + 5 * SHAPE["hidden_size"]
    assert left < before / 2


def test_packed_weights_stay_packed():
    """NF4 layers keep their own product; the rest of their block goes without modules all the same."""
    loaded = {mode: load_engine("demo", weights=mode).engine for mode in ("packed", "expanded")}
    network = loaded["packed"].runner._model
    assert not any(isinstance(module, Linear4bit) for module in network.modules())  # its blocks hold them
    answers = [run(engine, make_requests(6)) for engine in loaded.values()]
    for key in answers[0]:
        assert answers[0][key].token_ids == answers[1][key].token_ids


@pytest.mark.parametrize("rows", [1, 3, 64, 200])
def test_products_are_those_of_the_layers(rows):
    parts = [nn.Linear(48, 96), nn.Linear(48, 32, bias=False), nn.Linear(48, 32)]
    x, residual = torch.randn(rows, 48), torch.randn(rows, 160)
    with torch.inference_mode():
        expected = torch.cat([part(x) for part in parts], -1)
        (product,) = packed_together(parts)
        assert isinstance(product, PackedLinear)
        assert torch.allclose(product(x), expected, atol=1e-5)
        assert torch.allclose(product.add(x, residual), expected + residual, atol=1e-5)


def test_bf16_rounds_the_weights_an_adapter_included_but_not_the_output_layer(tmp_path):
    base = save_tiny_model(tmp_path / "base")
    network = load_model(str(base), device="cpu")
    make_adapter(base, tmp_path / "adapter")
    apply_adapter(network, str(tmp_path / "adapter"), model=str(base), path=str(base))
    wanted = load_model(str(base), device="cpu")
    expand(wanted)
    apply_adapter(wanted, str(tmp_path / "adapter"), model=str(base), path=str(base))
    round_to_bf16(network)
    for name, module in wanted.named_modules():
        if isinstance(module, nn.Linear):
            got = network.get_submodule(name)
            is_head = module is wanted.get_output_embeddings()
            assert type(got) is (nn.Linear if is_head else RoundedLinear)
            assert torch.allclose(got.weight.float(), module.weight, rtol=2**-8)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_blocks_in_bf16_compute_what_their_modules_do(name):
    """Nothing is rounded but the inputs of products and their outputs: the rest of a block stays in fp32."""
    networks = [build_model(name) for _ in range(2)]
    for network in networks:
        round_to_bf16(network)
    assert speed_up(networks[1]) == (2, 2)
    plain, fast = (run(build_engine(network), make_requests(8, trace=True)) for network in networks)
    for key, item in plain.items():
        assert fast[key].trace.probs[0] == pytest.approx(item.trace.probs[0], rel=0.02)


def test_bf16_is_refused_on_a_card_and_where_the_processor_has_no_products_of_it(monkeypatch):
    with pytest.raises(UsageError, match="is for a CPU"):
        check_mode("bf16", "cuda")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(ModelError, match="would make it slower"):
        check_mode("bf16", "cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    check_mode("bf16", "cpu")


def test_what_cannot_be_packed_stays():
    half = nn.Linear(8, 8).to(torch.bfloat16)
    assert packed_together([half, nn.Linear(8, 8)])[0] is half
