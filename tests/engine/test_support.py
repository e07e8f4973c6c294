"""A model that cannot be loaded, or that the engine would get wrong, is refused with the reason; others run."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    DiffLlamaConfig,
    DogeConfig,
    FalconConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GPT2Config,
    GptOssConfig,
    Llama4TextConfig,
    MambaConfig,
    NemotronConfig,
    PhimoeConfig,
)

from endmark.jobs.errors import ModelError
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine
from tests.engine.conftest import CONFIGS, SHAPE
from tests.integration.tiny_model import save_tiny_model

# transformers itself still sets an option that it calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16}
WIDE = {**SHAPE, "num_key_value_heads": 4}
NOT_REGISTERED = "does not mark its attention"
BEFORE_WEIGHTS = {
    "alibi": (BloomConfig(vocab_size=384, hidden_size=64, n_layer=2, n_head=4), NOT_REGISTERED),
    "alibi-falcon": (FalconConfig(**WIDE, alibi=True), NOT_REGISTERED),
    "state-space": (MambaConfig(vocab_size=384, hidden_size=64, num_hidden_layers=2), "`linear_attention`"),
    "heads-by-layer": (
        Gemma4TextConfig(**SHAPE, hidden_size_per_layer_input=8, vocab_size_per_layer_input=384),
        "differ in their heads",
    ),
    "chunks": (
        Llama4TextConfig(**SHAPE, head_dim=16, intermediate_size_mlp=128, **EXPERTS),
        "`chunked_attention`",
    ),
}
BY_A_TRIAL = {
    "latent": (DeepseekV3Config(**WIDE, **LATENT, first_k_dense_replace=2), "keys are 4 heads of 32"),
    "mask-of-its-own": (DogeConfig(**SHAPE), "a mask of its own"),
    "window-in-the-mask": (PhimoeConfig(**SHAPE, **EXPERTS, sliding_window=24), "window of 24 tokens"),
    "later-tokens": (BertConfig(**WIDE), "sees later tokens"),
    "sinks": (GptOssConfig(**SHAPE, head_dim=16, **EXPERTS), "takes `s_aux`"),
    "two-attentions": (DiffLlamaConfig(**SHAPE), "more than once on one cache"),
    "batch-not-handed-on": (NemotronConfig(**SHAPE), "0 of its 2 layers"),
}
RUN = {
    **CONFIGS,
    "gemma3": Gemma3TextConfig(**SHAPE, head_dim=32, sliding_window=32),
    "gpt2": GPT2Config(vocab_size=384, n_embd=64, n_layer=2, n_head=4, n_positions=256, eos_token_id=2),
}


def save(config, folder):
    """Save a model of random weights with the tiny model's tokeniser."""
    save_tiny_model(folder)
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", BEFORE_WEIGHTS)
def test_another_kind_of_layer_is_refused_before_weights_are_read(name, tmp_path):
    """Bloom gave answers without its ALiBi, Llama 4 saw beyond its chunks, and Falcon ended in a KeyError."""
    config, reason = BEFORE_WEIGHTS[name]
    folder = save(config, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=reason) as caught:
        load_engine(folder)
    assert "Llama" in caught.value.hint


@pytest.mark.parametrize("name", BY_A_TRIAL)
def test_what_the_attention_cannot_do_is_refused_after_a_trial_step(name, tmp_path):
    config, reason = BY_A_TRIAL[name]
    with pytest.raises(ModelError, match=reason) as caught:
        load_engine(save(config, tmp_path))
    assert "Llama" in caught.value.hint


@pytest.mark.parametrize("name", RUN)
def test_the_others_run(name, tmp_path):
    engine = load_engine(save(RUN[name], tmp_path)).engine
    engine.add(Request(key=0, prompt_token_ids=[5, 6, 7], max_new_tokens=4))
    finished = []
    while engine.has_work:
        finished += engine.step()
    assert [item.key for item in finished] == [0]
    assert finished[0].verdict.error is None


def test_a_window_as_long_as_the_context_is_none(tmp_path):
    """Phi-3.5-MoE names such a window; nothing is lost when its attention does not hear of it."""
    length = SHAPE["max_position_embeddings"]
    folder = save(PhimoeConfig(**SHAPE, **EXPERTS, sliding_window=length), tmp_path)
    assert load_engine(folder).engine.capacity.context == length


def test_a_damaged_or_missing_file_is_told_with_the_fix(tmp_path):
    folder = save(RUN["llama"], tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="is damaged") as caught:
        load_engine(folder)
    assert "again" in caught.value.hint
    weights.unlink()
    with pytest.raises(ModelError, match=r"no file named model\.safetensors"):
        load_engine(folder)
