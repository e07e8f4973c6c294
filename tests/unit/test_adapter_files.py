"""Adapters that would be computed wrong are refused by their files alone, before a job is stored."""

import json

import pytest
from click.testing import CliRunner

from endmark.cli.main import endmark
from endmark.cli.options import adapter_folder
from endmark.jobs import hub
from endmark.jobs.errors import ModelError, SpecError
from endmark.jobs.finetuning.adapters import ADAPTER_BASE, check_adapter, check_base
from endmark.jobs.finetuning.lora import read_pairs
from endmark.jobs.finetuning.names import hub_id, same_model
from endmark.jobs.finetuning.tensors import read_header
from tests.unit.adapter_files import KEY, whole_pair, write_adapter, write_model, write_tensors

pytestmark = pytest.mark.unit


def refused(message, folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    with pytest.raises(ModelError, match=message) as caught:
        read_pairs(folder, config)
    with pytest.raises(ModelError, match=message):
        adapter_folder(str(folder), "org/some-model")
    return caught.value.hint


@pytest.mark.parametrize(
    "start",
    [
        "pissa",
        "pissa_niter_16",
        "olora",
        "OLoRA",
        "corda",
        "corda_ipm",
        "loftq",
        "lora_ga",
        "PiSSA",
        "anything new",
        3,
    ],
)
def test_what_changes_the_base_is_refused(start, tmp_path):
    """PiSSA takes the greatest part out of the weights; added to the whole ones it gave garbage, exit 0."""
    hint = refused("changes the base model's weights", write_adapter(tmp_path, init_lora_weights=start))
    assert "path_initial_model_for_weight_conversion" in hint


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_what_leaves_the_base_as_it_is_runs(start, tmp_path):
    folder = write_adapter(tmp_path, init_lora_weights=start)
    assert adapter_folder(str(folder), "org/some-model") == str(folder)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alora_invocation_tokens", [5, 6]),
        ("use_dora", True),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("bias", "lora_only"),
        ("bias", "all"),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [1, 2]),
        ("target_parameters", ["mlp.experts.down_proj"]),
        ("layer_replication", [[0, 4], [2, 5]]),
        ("ensure_weight_tying", True),
        ("megatron_config", {"x": 1}),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"beta": 1}),
        ("monteclora_config", {"x": 1}),
        ("an_option_of_next_year", [1]),
    ],
)
def test_what_would_be_computed_otherwise_is_named(option, value, tmp_path):
    refused(f"is LoRA with `{option}`", write_adapter(tmp_path, **{option: value}))


def test_options_that_are_not_in_use_are_no_reason(tmp_path):
    """What peft 0.21 writes for a plain adapter, and what it says it ignores."""
    unused = {"alora_invocation_tokens": None, "use_dora": False, "modules_to_save": None,
              "trainable_token_indices": None, "layer_replication": None, "lora_bias": False,
              "loftq_config": {}, "eva_config": {"rho": 2.0},
              "megatron_core": "megatron.core", "qalora_group_size": 16, "task_type": "CAUSAL_LM",
              "inference_mode": True, "peft_version": "0.21.2", "lora_dropout": 0.1, "exclude_modules": None,
              "use_rslora": True,
              "layers_to_transform": [0]}  # fmt: skip
    folder = write_adapter(tmp_path, **unused)
    assert adapter_folder(str(folder), "org/some-model") == str(folder)


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "PROMPT_TUNING", "OFT"])
def test_other_methods_are_named(kind, tmp_path):
    refused(f"is `{kind}`", write_adapter(tmp_path, peft_type=kind))


def more(name):
    return {**whole_pair(), name: ("F32", [8])}


A, B = KEY.format(0, "q_proj", "A"), KEY.format(0, "q_proj", "B")
NOT_WHOLE = {
    "nothing": ({}, "holds no weights, so it would answer as its base"),
    "no numbers in A": ({A: ("F32", [0, 16]), B: ("F32", [16, 0])}, r"shape \[0, 16\], which is no matrix"),
    "no numbers in B": ({A: ("F32", [8, 16]), B: ("F32", [0, 8])}, r"shape \[0, 8\], which is no matrix of LoRA"),
    "A alone": ({A: ("F32", [8, 16])}, "half a pair for `model.layers.0.self_attn.q_proj`: `lora_B` is missing"),
    "B alone": ({B: ("F32", [16, 8])}, "half a pair for `model.layers.0.self_attn.q_proj`: `lora_A` is missing"),
    "half of a second pair": (
        {**whole_pair(), KEY.format(1, "q_proj", "A"): ("F32", [8, 16])},
        "half a pair for `model.layers.1",
    ),
    "ranks that differ": ({A: ("F32", [8, 16]), B: ("F32", [16, 4])}, "config says rank 8"),
    "another rank than the config's": (whole_pair(rank=4), "config says rank 8"),
    "four dimensions": ({A: ("F32", [8, 16, 1, 1]), B: ("F32", [16, 8, 1, 1])}, "no matrix of LoRA"),
    "integers": (whole_pair(dtype="I8"), "of type I8"),
    "an embedding": (more("base_model.model.model.embed_tokens.lora_embedding_A"), "only LoRA's two matrices"),
    "a bias": (more(A.replace("lora_A.weight", "lora_B.bias")), "only LoRA's two matrices"),
    "magnitudes": (more(A.replace("lora_A.weight", "lora_magnitude_vector")), "only LoRA's two matrices"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_adapters_that_are_not_whole_are_refused(case, tmp_path):
    """An empty one ran as the base model, under the adapter's name."""
    tensors, message = NOT_WHOLE[case]
    refused(message, write_adapter(tmp_path, tensors))


@pytest.mark.parametrize(
    "data", [b"", b"\x10", b"\xff" * 30, b"\x02\0\0\0\0\0\0\0[]", b'\x08\0\0\0\0\0\0\0{"a": 1}']
)
def test_a_damaged_file_is_said_to_be_one(data, tmp_path):
    folder = write_adapter(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(data)
    refused("is damaged, or no safetensors file", folder)


def test_ranks_and_scalings_are_those_of_peft(tmp_path):
    """Of the first pattern that a layer's name ends with; one for `proj` is none for `q_proj`."""
    tensors = {**whole_pair(0, "q_proj", 4), **whole_pair(0, "v_proj"), **whole_pair(1, "q_proj", 2)}
    config = {
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "q_proj": 4},
        "alpha_pattern": {"v_proj": 64, "proj": 1},
    }
    folder = write_adapter(tmp_path, tensors, **config)
    pairs = read_pairs(folder, json.loads((folder / "adapter_config.json").read_text()))
    assert {name[13:]: (pair.rank, pair.scaling) for name, pair in pairs.items()} == {
        "0.self_attn.q_proj": (4, 4.0),
        "0.self_attn.v_proj": (8, 8.0),
        "1.self_attn.q_proj": (2, 8.0),
    }
    stable = write_adapter(tmp_path / "stable", use_rslora=True)
    (pair,) = read_pairs(stable, json.loads((stable / "adapter_config.json").read_text())).values()
    assert pair.scaling == pytest.approx(16 / 8**0.5)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lora_alpha", 0),
        ("lora_alpha", "much"),
        ("lora_alpha", None),
        ("alpha_pattern", {"(": 1}),
        ("rank_pattern", [1]),
        ("lora_alpha", [16]),
        ("lora_alpha", 10**400),
        ("lora_alpha", float("nan")),
        ("r", 0),
    ],
)
def test_a_scaling_that_cannot_be_used_is_refused(option, value, tmp_path):
    hint = refused("that cannot be used", write_adapter(tmp_path, **{option: value}))
    assert hint == "give the folder the adapter_config.json that it was saved with"


@pytest.mark.parametrize(("alpha", "rank", "most"), [(1e308, 8, False), (8 * 3.3e38, 8, True), (-1e300, 8, False)])
def test_a_scaling_beyond_fp32_is_refused(alpha, rank, most, tmp_path):
    """Each answer came to no numbers, a row at a time, after the model had been loaded."""
    folder = write_adapter(tmp_path, lora_alpha=alpha, r=rank)
    if most:
        (pair,) = read_pairs(folder, json.loads((folder / "adapter_config.json").read_text())).values()
        assert pair.scaling == alpha / rank
    else:
        assert refused("no answer can come of that", folder)


def test_a_config_without_a_kind_is_told_as_such(tmp_path):
    folder = write_adapter(tmp_path, peft_type=None)
    with pytest.raises(ModelError, match="names no `peft_type`"):
        adapter_folder(str(folder), "org/some-model")


def test_sizes_are_compared_with_the_models_files(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path="org/good")
    for name, sizes, dtype in (("good", (16, 16), "BF16"), ("packed/good", (128, 1), "U8")):
        folder = write_model(tmp_path / name, sizes, dtype)
        check_adapter(adapter, str(folder), folder)
    other = write_model(tmp_path / "smaller" / "good", (16, 12))
    with pytest.raises(
        ModelError, match=r"layer `model.layers.0.self_attn.q_proj`: it is for 16 x 16, and .* is 16 x 12"
    ):
        check_adapter(adapter, str(other), other)
    with pytest.raises(ModelError, match="does not fit"):
        adapter_folder(str(adapter), str(other))


def test_a_layer_that_cannot_be_compared_hides_no_other(tmp_path):
    """The first layers are packed, or not in the files: the one behind them is looked at all the same."""
    tensors = {**whole_pair(0), **whole_pair(1), **whole_pair(2)}
    adapter = write_adapter(tmp_path / "adapter", tensors, base_model_name_or_path="org/good")
    folder = write_model(tmp_path / "good", (128, 1), "U8")
    name = "model.layers.{}.self_attn.q_proj.weight"
    packed, wrong = {name.format(1): ("U8", [128, 1])}, {name.format(2): ("F32", [16, 12])}
    write_tensors(folder / "model.safetensors", packed)
    check_adapter(adapter, str(folder), folder)
    write_tensors(folder / "model.safetensors", {**packed, **wrong})
    with pytest.raises(ModelError, match=r"layer `model\.layers\.2\.self_attn\.q_proj`"):
        check_adapter(adapter, str(folder), folder)


def test_the_two_sizes_of_a_layer_are_not_confused(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", whole_pair(sizes=(16, 12)), base_model_name_or_path="org/good")
    folder = write_model(tmp_path / "good", (16, 12))
    check_adapter(adapter, str(folder), folder)
    turned = write_model(tmp_path / "turned" / "good", (12, 16))
    with pytest.raises(ModelError, match="it is for 16 x 12, and the layer is 12 x 16"):
        check_adapter(adapter, str(turned), turned)


def test_what_is_not_there_yet_is_left_to_the_worker(tmp_path):
    """The folder of a fine-tuning that has not ended, or of another host."""
    folder = write_adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    check_adapter(folder, "org/model", None)
    (folder / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(ModelError, match=r"there is no `adapter_model.safetensors`"):
        check_adapter(folder, "org/model", None)
    with pytest.raises(ModelError, match=r"there is no `adapter_model.safetensors`"):
        read_pairs(folder, json.loads((folder / "adapter_config.json").read_text()))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/home/u/.cache/huggingface/hub/models--org--demo/snapshots/01c7f73d", "org/demo"),
        ("/c/hub/models--org--na--me/snapshots/0a/", "org/na--me"),
        ("models--gpt2/snapshots/0a", "gpt2"),
        ("/c/hub/models--org--name", "org/name"),
        ("/usr/lib/python3/site-packages/endmark/worker/demo/model", "demo"),
        ("org/name", "org/name"),
        ("/data/name/", "/data/name"),
    ],
)
def test_a_folder_of_the_hubs_cache_is_read_as_its_hub_id(text, name):
    assert hub_id(text) == name


SAME = [
    ("meta-llama/Llama-2-7b-hf", "/models/llama-2-7b-hf"),
    ("meta-llama/Llama-2-7b-hf", "unsloth/llama-2-7b-bnb-4bit"),
    ("meta-llama/Llama-2-7b-chat-hf", "unsloth/llama-2-7b-chat-bnb-4bit"),
    ("meta-llama/Meta-Llama-3-8B", "unsloth/llama-3-8b-bnb-4bit"),
    ("meta-llama/Meta-Llama-3.1-8B-Instruct", "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit"),
    ("meta-llama/Llama-3.2-1B-Instruct", "unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit"),
    ("mistralai/Mistral-7B-v0.1", "unsloth/mistral-7b-bnb-4bit"),
    ("mistralai/Mistral-7B-Instruct-v0.2", "unsloth/mistral-7b-instruct-v0.2-bnb-4bit"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "unsloth/tinyllama-chat-bnb-4bit"),
    ("Qwen/Qwen2.5-7B-Instruct", "/c/models--unsloth--Qwen2.5-7B-Instruct-bnb-4bit/snapshots/0a"),
    ("google/gemma-2-9b-it", "somebody/gemma-2-9b-it-nf4"),
    ("org/demo", "demo"),
    ("some/model", "some/model"),
    ("some/model", "/c/models--some--model/snapshots/0a"),
    ("./checkpoint-500/", "./checkpoint-500"),
    ("a/" + "1" * 60 + "x", "b/" + "1" * 60 + "x"),  # found in no time
    ("org/model-7b", "/data/model-7b"),
]
OTHER = [
    ("other/model", "/data/model"),
    ("other/model", "some/model"),
    ("other/model", "demo"),
    ("/a/checkpoint-500", "/b/checkpoint-500"),
    ("/a/final_model", "/b/final-model"),
    ("/a/0a1b2c3d", "/b/0a1b2c3d"),
    ("/a/v2", "/b/v2"),
    ("/a/my_models", "/b/my-models"),
    ("/a/model2", "/b/model2"),
    ("/a/run-3-step-40", "/b/run-3-step-40"),
    ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
    ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"),
    ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b-Instruct-bnb-4bit"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_names_of_one_model(one, other):
    assert same_model(one, other)
    assert same_model(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_names_of_two_models(one, other):
    """An adapter of `other/model` passed for any model whose folder was called `model`."""
    assert not same_model(one, other)
    assert not same_model(other, one)


def test_another_model_in_a_folder_of_the_same_name_is_refused(tmp_path, monkeypatch):
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path="other/model")
    folder = write_model(tmp_path / "model")
    with pytest.raises(SpecError, match="was trained on `other/model`, not on") as caught:
        adapter_folder(str(adapter), str(folder))
    assert "--adapter-base any" in caught.value.hint
    monkeypatch.setattr(hub, "BUNDLED", write_model(tmp_path / "demo" / "model"))
    with pytest.raises(SpecError, match="not on `demo`"):
        adapter_folder(str(adapter), "demo")
    monkeypatch.setenv(ADAPTER_BASE, "any")
    assert adapter_folder(str(adapter), str(folder)) == str(adapter)
    smaller = write_model(tmp_path / "smaller", (16, 8))
    with pytest.raises(ModelError, match="does not fit"):
        adapter_folder(str(adapter), str(smaller))


def test_two_folders_of_one_name_are_told_apart_by_their_files(tmp_path):
    mine, theirs = write_model(tmp_path / "a" / "good-7b"), write_model(tmp_path / "b" / "good-7b")
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path=str(theirs))
    check_base(adapter, str(mine), mine)
    write_model(theirs, rope_theta=5)
    with pytest.raises(SpecError, match="before its files were changed"):
        check_base(adapter, str(mine), mine)
    packed = write_model(tmp_path / "good-7b-bnb-4bit", (128, 1), "U8")
    check_base(adapter, str(packed), packed)


def test_the_option_lets_any_base_pass_and_no_wrong_size(tmp_path, monkeypatch):
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(ADAPTER_BASE, "")
    (tmp_path / "rows.csv").write_text("prompt\nhello\n")
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path="other/model")
    folder, smaller = write_model(tmp_path / "model"), write_model(tmp_path / "smaller", (16, 8))

    def call(model, *words):
        arguments = [str(tmp_path / "rows.csv"), "--model", str(model), "--adapter", str(adapter), *words]
        monkeypatch.setenv(ADAPTER_BASE, "")
        return CliRunner().invoke(endmark, ["submit", *arguments])

    assert isinstance(call(folder).exception, SpecError)
    assert isinstance(call(smaller, "--adapter-base", "any").exception, ModelError)
    assert "Invalid value" in call(folder, "--adapter-base", "all").output


def test_a_header_is_read_without_the_tensors(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": ("BF16", [3, 5]), "b": ("F32", [])})
    found = read_header(tmp_path / "x.safetensors")
    assert {name: (item.dtype, item.shape, item.count) for name, item in found.items()} == {
        "a": ("BF16", (3, 5), 15),
        "b": ("F32", (), 1),
    }
    with pytest.raises(ModelError, match="cannot read"):
        read_header(tmp_path / "nothing")


@pytest.mark.parametrize(("kind", "mergeable"), [("IA3", True), ("LOHA", True), ("PREFIX_TUNING", False)])
def test_another_kind_of_adapter_is_told_how_it_can_run(tmp_path, kind, mergeable):
    hint = refused(f"is `{kind}`", write_adapter(tmp_path, peft_type=kind))
    assert ("merge_and_unload" in hint) == mergeable
