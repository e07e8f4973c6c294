"""Under which engine a model is loaded, and what a model that ours refuses is told."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig

from endmark.jobs import engines
from endmark.jobs.engines import ANY_ENGINE, EngineChoice
from endmark.jobs.errors import ModelError, Refusal
from endmark.worker.models.loader import load_engine
from endmark.worker.service.engines import load_chosen
from tests.engine.conftest import SHAPE
from tests.engine.test_support import EXPERTS, RUN, save

pytestmark = pytest.mark.engine

QUANTISED = {
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "mxfp4": {"quant_method": "mxfp4"},
}


def changed(folder, **values):
    """Give the model's config other values; its weights are no weights, for they are not to be read."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    (folder / "model.safetensors").write_bytes(b"no weights")
    return str(folder)


@pytest.mark.parametrize("name", QUANTISED)
def test_weights_quantised_by_others_are_refused_before_they_are_read(name, tmp_path):
    """transformers was asked to quantise them once more, and what it said named no way out."""
    save(RUN["llama"], tmp_path)
    with pytest.raises(Refusal, match=f"quantised as `{name}`"):
        load_engine(changed(tmp_path, quantization_config=QUANTISED[name]))


def test_a_kind_that_transformers_does_not_know_is_refused(tmp_path):
    save(RUN["llama"], tmp_path)
    with pytest.raises(Refusal, match="transformers knows no text model of the kind"):
        load_engine(changed(tmp_path, model_type="qwen9_next", architectures=["Qwen9ForCausalLM"]))


@pytest.mark.parametrize("choice", [ANY_ENGINE, EngineChoice("endmark")])
def test_a_refusal_names_the_engine_that_may_run_the_model_and_how_it_is_installed(choice, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    save(GptOssConfig(**SHAPE, head_dim=16, **EXPERTS), tmp_path)
    with pytest.raises(Refusal, match="takes `s_aux`") as caught:
        load_chosen(choice, str(tmp_path))
    assert "pip install 'endmark[vllm]'" in caught.value.hint


def test_a_model_larger_than_the_card_is_told_what_spreads_it(tmp_path, monkeypatch):
    """It said that a folder with safetensors weights was wanted."""

    def full(*_args, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 448.00 MiB.")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)  # no card here is ever full
    with pytest.raises(ModelError, match="does not fit on the card: CUDA out of memory") as caught:
        load_engine(save(RUN["llama"], tmp_path))
    assert "--tensor-parallel 2" in caught.value.hint


def test_a_damaged_model_is_no_refusal(tmp_path):
    """Another engine would not read it either."""
    save(RUN["llama"], tmp_path)
    with pytest.raises(ModelError, match="is damaged") as caught:
        load_chosen(ANY_ENGINE, changed(tmp_path))
    assert not isinstance(caught.value, Refusal)


def test_ours_serves_what_it_can(tmp_path):
    assert load_chosen(ANY_ENGINE, save(RUN["llama"], tmp_path)).description.engine == "endmark"
