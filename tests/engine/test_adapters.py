"""Adapters in the engine give peft's own logits, and are refused on another base."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from endmark.jobs.errors import ModelError, SpecError
from endmark.jobs.finetuning.adapters import check_base, fingerprint
from endmark.jobs.vocabulary import NOT_NUMBERS
from endmark.worker.engine.request import Request
from endmark.worker.models.adapters import LowRankLinear, apply_adapter
from endmark.worker.models.loader import load_engine, load_model
from endmark.worker.models.weights import expand
from tests.integration.tiny_model import save_tiny_model

# transformers itself still sets an option that it calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]
IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 41, 51, 61]])
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"))


def network_of(folder):
    network = load_model(str(folder), device="cpu")
    network.set_attn_implementation("sdpa")
    return network


def make_adapter(base, folder, **options):
    """Save an adapter of noise; return the logits that peft gives with it."""
    torch.manual_seed(3)
    model = get_peft_model(network_of(base), LoraConfig(**{**LORA, **options}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.mlp.up_proj": 64}},
    "some-layers": {"target_modules": ["q_proj", "v_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_peft(kind, base, tmp_path):
    wanted = make_adapter(base, tmp_path, **KINDS[kind])
    for expanded in (False, True):
        network = network_of(base)
        if expanded:
            expand(network)
        with torch.no_grad():
            without = network(input_ids=IDS).logits
            apply_adapter(network, str(tmp_path), model=str(base), path=str(base))
            found = network(input_ids=IDS).logits
        assert any(isinstance(module, LowRankLinear) for module in network.modules()) != expanded
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert (wanted - without).abs().max() > 0.1


@pytest.mark.parametrize("weights", ["packed", "expanded"])
def test_the_engine_takes_the_adapter_with_its_own_tokeniser(base, tmp_path, weights):
    make_adapter(base, tmp_path)
    plain = load_engine(str(base), weights=weights)
    plain.tokenizer.chat_template = "trained"
    plain.tokenizer.save_pretrained(tmp_path)
    loaded = load_engine(str(base), adapter=str(tmp_path), weights=weights)
    assert loaded.tokenizer.chat_template == "trained"
    assert loaded.description.adapter == str(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("weights", ["packed", "expanded"])
def test_an_adapter_of_nan_is_told_at_once_and_fails_its_rows(base, tmp_path, caplog, weights, value):
    """It gave empty answers, cut by their budget, with an EOS probability of -1."""
    make_adapter(base, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(name for name in tensors if "layers.1" in name and "lora_B" in name)
    tensors[name][3, 2] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    engine = load_engine(str(base), adapter=str(tmp_path), weights=weights).engine
    assert (
        f"1 of {len(tensors)} tensors of the adapter `{tmp_path}` hold NaN or infinity, first `{name}`"
        in caplog.text
    )
    engine.add(Request(key=1, prompt_token_ids=[40, 50, 60], max_new_tokens=5))
    (finished,) = [finished for _ in range(3) for finished in engine.step()]
    assert finished.verdict.error == f"{NOT_NUMBERS} (NaN) at token 1"


def test_weights_for_a_layer_that_the_model_lacks_are_refused(base, tmp_path):
    make_adapter(base, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    moved = {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}
    save_file(moved, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"has weights for `model.layers.7.*`, which the model lacks"):
        load_engine(str(base), adapter=str(tmp_path))


@pytest.mark.filterwarnings("ignore:.* changes the base weights")
@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_an_adapter_that_changes_its_base_is_refused_and_runs_once_peft_has_converted_it(base, tmp_path, kind):
    """Its start was taken out of the base's weights, and it was added to the whole ones: garbage, exit 0."""
    torch.manual_seed(3)
    start, trained, converted = tmp_path / "start", tmp_path / "trained", tmp_path / "converted"
    plain = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(plain, LoraConfig(**{**LORA, "target_modules": ["q_proj"]}, init_lora_weights=kind))
    model.peft_config["default"].init_lora_weights = True  # as peft's guide has it, or the start is made anew
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = kind
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    with torch.no_grad():
        wanted = model.eval()(input_ids=IDS).logits
    model.save_pretrained(trained)
    with pytest.raises(ModelError, match=f"begins with `{kind}`, which changes the base model's weights"):
        load_engine(str(base), adapter=str(trained))
    model.save_pretrained(converted, path_initial_model_for_weight_conversion=str(start))
    network = AutoModelForCausalLM.from_pretrained(base)
    apply_adapter(network, str(converted), model=str(base), path=str(base))
    with torch.no_grad():
        torch.testing.assert_close(network(input_ids=IDS).logits, wanted, rtol=1e-3, atol=1e-3)


def test_another_base_is_refused_by_its_files_or_by_its_name(base, tmp_path):
    make_adapter(base, tmp_path)
    other = tmp_path / "other"
    save_tiny_model(other)
    weights = load_file(other / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] += 0.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpecError, match="was trained on") as caught:
        load_engine(str(other), adapter=str(tmp_path))
    assert f"--model {base}" in caught.value.hint

    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    assert fingerprint(moved) == fingerprint(base) != fingerprint(other)
    manifest = {"base": {"model": "renamed", "fingerprint": fingerprint(base)}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    check_base(tmp_path, str(moved), moved)
    with pytest.raises(SpecError, match="was trained on `renamed`"):
        check_base(tmp_path, str(other), other)
    check_base(tmp_path, "org/Renamed", None)
    with pytest.raises(SpecError, match="not on `org/another`"):
        check_base(tmp_path, "org/another", None)


def test_what_cannot_run_is_named(base, tmp_path):
    make_adapter(base, tmp_path)

    def refused(message, **changes):
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        folder = tmp_path / "changed"
        shutil.copytree(tmp_path, folder, dirs_exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ModelError, match=message):
            apply_adapter(network_of(base), str(folder), model=str(base), path=str(base))
        shutil.rmtree(folder)

    refused("LoRA with `use_dora`", use_dora=True)
    refused("LoRA with `modules_to_save`", modules_to_save=["lm_head"])
    refused("is `IA3`", peft_type="IA3")
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({**weights, "base_model.model.extra": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    refused("holds `base_model.model.extra`")
    save_file({**weights, name: torch.zeros(8, 32)}, tmp_path / "adapter_model.safetensors")
    refused("does not fit the model's layer")
    (tmp_path / "adapter_model.safetensors").unlink()
    refused("there is no `adapter_model.safetensors`")
    with pytest.raises(SpecError, match="cannot read"):
        load_engine(str(base), adapter=str(tmp_path / "nowhere"))
