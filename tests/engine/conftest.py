"""Tiny random models of several architectures, in fp32 on CPU."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

import endmark.worker.engine.attention  # noqa: F401  registers the attention
from endmark.worker.engine.attention import PLAIN

SHAPE = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.25,  # wide, so that the best two scores are far apart
    "tie_word_embeddings": False,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=24),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32),
    "gemma2": Gemma2Config(**SHAPE, head_dim=32, sliding_window=32),
}


def build_model(name, attention=PLAIN):
    torch.manual_seed(7)
    config = copy.deepcopy(CONFIGS[name])  # the attention is set in it: one model would change that of another
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    model.eval()
    model.generation_config.eos_token_id = 2
    return model


@pytest.fixture(params=list(CONFIGS))
def architecture(request):
    return request.param
