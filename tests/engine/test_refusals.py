"""Checkpoints and kinds of models that our engine does not read are refused before their weights are."""

import json

import pytest

from endmark.jobs.errors import Refusal
from endmark.worker.models.loader import load_engine
from tests.engine.test_support import RUN, save

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
