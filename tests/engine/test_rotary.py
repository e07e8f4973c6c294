"""Rotary factors: a row's answer does not depend on how long the rows beside it are."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Phi3Config, PhimoeConfig

from endmark.jobs.errors import PromptTooLong
from endmark.worker.engine.attention import PLAIN
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine
from endmark.worker.models.support import check_attention
from tests.engine.conftest import CONFIGS, SHAPE
from tests.integration.tiny_model import save_tiny_model

# transformers itself still sets an option that it calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

HALF = 8  # of a head
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 48,
    "factor": 4.0,
    "short_factor": [1.0] * HALF,
    "long_factor": [4.0] * HALF,
}


def scaled(kind, **values):
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **values}


LIMITS = {
    "longrope": (LlamaConfig(**SHAPE, rope_parameters=LONG), 48),
    "longrope of Phi 3": (Phi3Config(**SHAPE, rope_parameters=LONG, original_max_position_embeddings=48), 48),
    "default": (CONFIGS["llama"], 256),
    "linear": (LlamaConfig(**SHAPE, rope_parameters=scaled("linear")), 256),
    "yarn": (LlamaConfig(**SHAPE, rope_parameters=scaled("yarn", original_max_position_embeddings=64)), 256),
    "llama3": (
        LlamaConfig(
            **SHAPE,
            rope_parameters=scaled(
                "llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
            ),
        ),
        256,
    ),
    "dynamic": (LlamaConfig(**SHAPE, rope_parameters=scaled("dynamic")), 256),
    "two kinds of layers": (Gemma3TextConfig(**SHAPE, head_dim=32, sliding_window=32), 256),
    "no rotary embedding": (CONFIGS["gemma2"], 256),
}


def limit_of(config, context=256):
    network = AutoModelForCausalLM.from_config(config, attn_implementation=PLAIN)
    text = network.config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return check_attention(network, layers=2, kv_heads=text.num_key_value_heads, head_size=size, context=context)


@pytest.mark.parametrize("name", LIMITS)
def test_rows_may_be_as_long_as_their_factors_are_their_own(name):
    config, limit = LIMITS[name]
    assert limit_of(config) == limit


def test_dynamic_factors_grow_beyond_the_trained_length():
    """A context beyond `max_position_embeddings` would have them depend on the longest row."""
    assert limit_of(LIMITS["dynamic"][0], context=400) == 256


def test_factors_that_a_model_computes_in_its_own_way_are_told_by_what_it_computes():
    """Phi MoE scales by the longest row in code of its own."""
    parameters = {**LONG, "short_mscale": 1.1, "long_mscale": 1.4}
    config = PhimoeConfig(
        **SHAPE, num_local_experts=4, num_experts_per_tok=2, rope_parameters=parameters,
        original_max_position_embeddings=48,
    )  # fmt: skip
    assert limit_of(config) == 48


def test_a_short_row_has_the_same_answer_beside_a_long_one(tmp_path, caplog):
    """Its factors were those of the longest row of the batch: another row changed its greedy answer."""
    save_tiny_model(tmp_path, context=256)
    torch.manual_seed(7)
    config = LlamaConfig(
        **{**SHAPE, "vocab_size": 258, "eos_token_id": 0},
        rope_parameters=LONG,
        original_max_position_embeddings=48,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    engine = load_engine(str(tmp_path)).engine
    assert "may have 48 tokens of the model's 256" in caplog.text

    def answers(*lengths):
        for key, length in enumerate(lengths):
            engine.add(Request(key=key, prompt_token_ids=[5 + key] * length, max_new_tokens=60))
        done = {}
        while engine.has_work:
            done.update((finished.key, finished.token_ids) for finished in engine.step())
        return done

    alone = answers(6)[0]
    assert answers(6, 44, 47)[0] == alone
    assert answers(6)[0] == alone
    with pytest.raises(
        PromptTooLong, match="context holds 48: beyond them its rotary factors depend on the longest"
    ):
        answers(48)
