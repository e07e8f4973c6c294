"""A checkpoint that does not hold the model of its config is refused: transformers makes up what is not there."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from endmark.jobs.errors import ModelError
from endmark.worker.models.checkpoint import check_packed_files
from endmark.worker.models.loader import load_engine, load_model
from tests.integration.tiny_model import save_tiny_model

# transformers itself still sets an option that it calls deprecated
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:You passed `quantization_config`"),
]
LAYER = "model.layers.1.self_attn.q_proj.weight"
PACKED = f"{LAYER}.quant_state.bitsandbytes__nf4"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The tiny model in one file, in several, and packed in 4 bits in several."""
    root = tmp_path_factory.mktemp("models")
    whole = save_tiny_model(root / "whole")
    network = AutoModelForCausalLM.from_pretrained(whole)
    packed = AutoModelForCausalLM.from_pretrained(
        whole, quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    )
    for name, model in (("shards", network), ("packed", packed)):
        shutil.copytree(whole, root / name, ignore=shutil.ignore_patterns("model.safetensors"))
        model.save_pretrained(root / name, max_shard_size="60KB")
        assert len(list((root / name).glob("*.safetensors"))) > 2
    return root


def changed(folders, kind, target, change=None, **config):
    """Copy a model with some of its tensors changed, and values of its config."""
    shutil.copytree(folders / kind, target, dirs_exist_ok=True)
    for path in target.glob("*.safetensors"):
        tensors = load_file(path)
        before = dict(tensors)
        if change is not None:
            change(tensors)
        if tensors.keys() != before.keys() or any(tensors[key] is not before[key] for key in tensors):
            save_file(tensors, path, metadata={"format": "pt"})
    values = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**values, **config}))
    return str(target)


def without(name):
    return lambda tensors: tensors.pop(name, None)


def put(name, tensor, beside="model.norm.weight"):
    """Add or replace a tensor in the file that holds another one."""

    def change(tensors):
        if beside in tensors:
            tensors[name] = tensor

    return change


@pytest.mark.parametrize("kind", ["whole", "shards", "packed"])
def test_a_whole_checkpoint_loads(folders, kind):
    load_engine(str(folders / kind))


@pytest.mark.parametrize("kind", ["whole", "shards"])
@pytest.mark.parametrize("name", [LAYER, "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"])
def test_a_missing_weight_is_named(folders, tmp_path, kind, name):
    """Weights that the checkpoint lacked were made up at random: garbage, "completed", exit 0."""
    with pytest.raises(ModelError, match=f"lack 1 weight .`{name}`"):
        load_engine(changed(folders, kind, tmp_path, without(name)))


def test_a_tied_head_is_not_missing(folders, tmp_path):
    path = changed(folders, "whole", tmp_path, without("lm_head.weight"), tie_word_embeddings=True)
    network = load_model(path, device="cpu")
    assert network.lm_head.weight is network.get_input_embeddings().weight


def test_a_head_that_should_be_tied_and_is_nowhere_is_missing(folders, tmp_path):
    def change(tensors):
        without("lm_head.weight")(tensors)
        without("model.embed_tokens.weight")(tensors)

    with pytest.raises(ModelError, match=r"lack 2 weights .*`model.embed_tokens.weight`"):
        load_model(changed(folders, "whole", tmp_path, change, tie_word_embeddings=True), device="cpu")


def test_a_missing_head_names_both_ways_out(folders, tmp_path):
    with pytest.raises(ModelError) as caught:
        load_model(changed(folders, "whole", tmp_path, without("lm_head.weight")), device="cpu")
    assert "download the model again" in caught.value.hint
    assert "tie_word_embeddings" in caught.value.hint


def test_missing_layers_are_counted(folders, tmp_path):
    with pytest.raises(ModelError, match=r"lack 9 weights \(.*model.layers.2.*, …\)"):
        load_model(changed(folders, "shards", tmp_path, num_hidden_layers=3), device="cpu")


OTHER_SHAPES = {
    "a packed layer": (LAYER, torch.zeros(64, 32), "is 64 x 32 in .* and should be 64 x 64"),
    "a norm": ("model.norm.weight", torch.ones(7), "is 7 and should be 64"),
    "the embedding": ("model.embed_tokens.weight", torch.ones(100, 64), "is 100 x 64 and should be 258 x 64"),
}


@pytest.mark.parametrize("case", OTHER_SHAPES)
def test_a_weight_of_another_shape_is_named(folders, tmp_path, case):
    """transformers compares no shapes of weights that it packs into 4 bits."""
    name, tensor, message = OTHER_SHAPES[case]
    with pytest.raises(ModelError, match=message) as caught:
        load_model(changed(folders, "whole", tmp_path, put(name, tensor, beside=name)), device="cpu")
    assert f"`{name}`" in str(caught.value)


LEFT_OVER = {
    "a bias that the config has not": "model.layers.1.self_attn.q_proj.bias",
    "a layer that the config has not": "model.layers.2.self_attn.q_proj.weight",
    "a norm of a later version": "model.layers.0.self_attn.q_norm.weight",
    "a bias of the head": "lm_head.bias",
    "a part of a name that nothing has": "model.embedding_norm.weight",
    "a scale": "model.layers.1.mlp.up_proj.weight_scale",
    "another tree": "transformer.h.0.attn.weight",
}


@pytest.mark.parametrize("case", LEFT_OVER)
def test_what_is_left_over_where_it_matters_is_named(folders, tmp_path, case):
    """A model with biases ran without them."""
    name = LEFT_OVER[case]
    with pytest.raises(ModelError, match=f"hold 1 weight .`{name}`. that its config has no place for"):
        load_model(changed(folders, "shards", tmp_path, put(name, torch.ones(64))), device="cpu")


@pytest.mark.parametrize(
    "name",
    [
        "visual.blocks.0.attn.qkv.weight",
        "model.vision_tower.layers.0.weight",
        "multi_modal_projector.linear.weight",
        "mtp.layers.0.mlp.up_proj.weight",
        "v_head.summary.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.attn.masked_bias",
    ],
)
def test_parts_of_other_tasks_and_old_buffers_are_left_out(folders, tmp_path, name):
    load_model(changed(folders, "whole", tmp_path, put(name, torch.ones(4))), device="cpu")


PARTS = {
    "weight": (without(LAYER), LAYER),
    "scales": (without(f"{LAYER}.absmax"), f"{LAYER}.absmax"),
    "values": (without(f"{LAYER}.quant_map"), f"{LAYER}.quant_map"),
    "state": (without(PACKED), f"{LAYER}.quant_state"),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_packed_weight_without_one_of_its_parts_is_named(folders, tmp_path, case):
    change, name = PARTS[case]
    with pytest.raises(ModelError, match=f"lack 1 weight .`{name}`"):
        load_model(changed(folders, "packed", tmp_path, change), device="cpu")


def test_a_packed_weight_of_too_few_bytes_is_named(folders, tmp_path):
    def change(tensors):
        if LAYER in tensors:
            tensors[LAYER] = tensors[LAYER][:100].contiguous()

    with pytest.raises(ModelError, match=f"`{LAYER}` is 64 x 64 in 100 bytes and should be 64 x 64 in 2,048"):
        load_model(changed(folders, "packed", tmp_path, change), device="cpu")


def test_a_model_with_an_adapter_beside_it_is_refused(folders, tmp_path):
    """transformers put the adapter into the model, unasked, whatever its kind."""
    path = changed(folders, "whole", tmp_path)
    network = get_peft_model(AutoModelForCausalLM.from_pretrained(path), LoraConfig(target_modules=["q_proj"]))
    network.save_pretrained(path)
    with pytest.raises(ModelError, match="holds an adapter") as caught:
        load_model(path, device="cpu")
    assert "`--adapter`" in caught.value.hint


def test_files_that_hold_no_packed_weights_pass():
    check_packed_files({}, "m")


def test_a_shard_that_is_not_there_and_a_library_that_raises_are_one_line(folders, tmp_path):
    """Any exception of a load cost 150 s of restarts, and then the user read that the log says why."""
    path = changed(folders, "shards", tmp_path / "a")
    next(iter(sorted((tmp_path / "a").glob("*.safetensors")))).unlink()
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(path, device="cpu")
    odd = changed(folders, "whole", tmp_path / "b", quantization_config={"quant_method": "compressed-tensors"})
    with pytest.raises(ModelError, match="quantised as `compressed-tensors`"):
        load_model(odd, device="cpu")
    broken = changed(folders, "whole", tmp_path / "c", num_attention_heads="four")
    with pytest.raises(ModelError, match=r"cannot read the config\.json"):
        load_model(broken, device="cpu")
