"""Weights in fp8, from NF4 and from a model's own files: layers, adapters, scores and refusals."""

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import nn

from endmark.jobs.errors import ModelError, UsageError
from endmark.worker.engine.fp8 import Fp8Linear, scaled_rows
from endmark.worker.models.adapters import LowRankLinear, apply_adapter
from endmark.worker.models.loader import load_engine, load_model
from endmark.worker.models.weights import apply_weights_mode, check_mode, check_original, expand, scale_to_fp8
from tests.engine.test_adapters import IDS, make_adapter
from tests.integration.tiny_model import save_tiny_model

# transformers itself still sets an option that it calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"))


def network_of(folder, *, four_bits=True):
    network = load_model(str(folder), device="cpu", four_bits=four_bits)
    network.set_attn_implementation("sdpa")
    return network


@torch.inference_mode()
def scores(network):
    return network(input_ids=IDS).logits


def error(got, want):
    return ((got - want).norm() / want.norm()).item()


def kinds(network):
    """Names of the classes of all linear layers but the output layer."""
    head = network.get_output_embeddings()
    return {type(item) for item in network.modules() if isinstance(item, nn.Linear) and item is not head}


def test_every_layer_but_the_output_layer_is_in_fp8(base):
    network = network_of(base)
    done, total = scale_to_fp8(network)
    assert done == total > 0
    assert kinds(network) == {Fp8Linear}
    assert type(network.get_output_embeddings()) is nn.Linear


def test_the_values_are_those_of_nf4_rounded_a_row_at_a_time(base):
    expanded, scaled = network_of(base), network_of(base)
    expand(expanded)
    scale_to_fp8(scaled)
    name = "model.layers.0.mlp.down_proj"
    want = scaled_rows(expanded.get_submodule(name).weight.data)
    got = scaled.get_submodule(name)
    assert torch.equal(got.weight.data.float(), want.values.float())
    assert torch.equal(got.scale.view(-1, 1), want.scale)
    assert 0 < error(scores(scaled), scores(expanded)) < 0.2


def test_from_the_files_it_is_nearer_to_them_than_four_bits_are(base):
    """fp8 rounds a number to a sixteenth of it, NF4 to a fourteenth of the largest of 64."""
    original, packed, scaled = (
        network_of(base, four_bits=False),
        network_of(base),
        network_of(base, four_bits=False),
    )
    assert apply_weights_mode(scaled, "fp8-original", 0) == "fp8-original"
    want = scores(original)
    assert error(scores(scaled), want) < 0.7 * error(scores(packed), want)


@pytest.mark.parametrize("four_bits", [True, False])
def test_an_adapter_is_rounded_with_the_weights_that_it_is_added_to(base, tmp_path, four_bits):
    make_adapter(base, tmp_path)
    network = network_of(base, four_bits=four_bits)
    name, x = "model.layers.1.mlp.up_proj", torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    without = network.get_submodule(name)(x)
    apply_adapter(network, str(tmp_path), model=str(base), path=str(base))
    assert error(network.get_submodule(name)(x), without) > 0.1
    with torch.inference_mode():
        want = network.get_submodule(name)(x)
        scale_to_fp8(network)
        assert kinds(network) == {Fp8Linear}
        assert error(network.get_submodule(name)(x), want) < 0.06
    assert not any(isinstance(item, LowRankLinear) for item in network.modules())


def test_a_layer_of_odd_size_stays_in_16_bits(base):
    """cuBLASLt multiplies sizes that are multiples of 16; the worker's report says how many layers are in fp8."""
    network = network_of(base, four_bits=False)
    odd = nn.Sequential(nn.Linear(64, 40, bias=False), nn.Linear(40, 64, bias=False))
    network.model.odd = odd.requires_grad_(False)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    want = odd(x)
    total = sum(isinstance(item, nn.Linear) for item in network.modules()) - 1
    assert apply_weights_mode(network, "fp8", 0) == f"fp8, {total - 2} of {total} layers"
    assert {type(item) for item in network.model.odd} == {nn.Linear}
    assert torch.equal(network.model.odd(x), want)


@pytest.mark.parametrize("weights", ["fp8", "fp8-original"])
def test_a_cpu_is_refused_with_what_to_do(weights):
    with pytest.raises(UsageError, match="and the model is to run on the CPU") as caught:
        load_engine("demo", weights=weights)
    assert "`--weights`" in caught.value.hint


@pytest.mark.parametrize(("capability", "refused"), [((8, 0), True), ((8, 9), False), ((9, 0), False)])
def test_a_card_without_fp8_is_refused_with_what_it_has(capability, refused, monkeypatch):
    """No card is asked: what torch says of one stands in for it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if not refused:
        check_mode("fp8", "cuda")
        return
    with pytest.raises(ModelError, match=r"compute capability 8\.0, not 8\.9"):
        check_mode("fp8", "cuda")


def test_four_bit_files_have_no_original(base):
    network = network_of(base)
    assert any(isinstance(item, Linear4bit) for item in network.modules())
    with pytest.raises(ModelError, match="are in 4 bits") as caught:
        check_original(network, "some/model-bnb-4bit")
    assert "`--weights fp8`" in caught.value.hint
    check_original(network_of(base, four_bits=False), "some/model")


def test_auto_never_picks_fp8(base):
    network = network_of(base)
    assert apply_weights_mode(network, "auto", 0) == "expanded"
    assert kinds(network) == {nn.Linear}


def test_a_bias_is_added_once_and_only_where_a_part_has_one():
    generator = torch.Generator().manual_seed(5)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 32), (16, 32), (16,)))
    bare = Fp8Linear(scaled_rows(weight), None, torch.float32)
    without, added = bare(x), Fp8Linear(scaled_rows(weight), bias, torch.float32)
    assert torch.equal(added(x), without + bias)
    assert torch.equal(Fp8Linear.beside([bare, added])(x), torch.cat([without, without + bias], -1))


def test_what_is_kept_in_fp8_is_what_went_in_within_its_step():
    """e4m3 has three bits behind the point: half a step is a sixteenth."""
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(6)) * torch.tensor(
        [[1e-3], [1.0], [50.0], [0.0]]
    )
    kept = scaled_rows(x)
    assert kept.scale.flatten().tolist() == pytest.approx((x.abs().amax(-1) / 448).clamp(min=1e-12 / 448).tolist())
    assert ((kept.numbers() - x).abs() <= x.abs() / 16 + kept.scale * 2**-10).all()
