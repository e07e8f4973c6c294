"""A model that our engine refuses on a card, which vLLM then serves in the same process."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PersimmonConfig

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'endmark[vllm]'")

from endmark.jobs.engines import ANY_ENGINE
from endmark.jobs.strategies import build_strategies
from endmark.worker.engine.request import Request
from endmark.worker.service.engines import load_chosen
from endmark.worker.vllm import loading
from tests.engine_contract import run
from tests.integration.tiny_model import save_tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # those of vLLM are its own

SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"vocab_size": 258, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}


def test_what_a_trial_step_refuses_is_served_by_vllm(tmp_path, monkeypatch):
    """The refusal comes when the model is on the card already, which must then be free again."""
    usual = loading.engine_options
    quick = {"enforce_eager": True, "gpu_memory_utilization": 0.2, "kv_cache_memory_bytes": 1 << 28}
    monkeypatch.setattr(loading, "engine_options", lambda *given, **named: usual(*given, **named) | quick)
    save_tiny_model(tmp_path)
    torch.manual_seed(7)
    config = PersimmonConfig(**SIZES, **IDS, num_key_value_heads=2, max_position_embeddings=512)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    said = []
    loaded = load_chosen(ANY_ENGINE, str(tmp_path), told=said.append, device="cuda", max_rows=8)
    assert "vLLM's engine serves: Endmark cannot run PersimmonForCausalLM: its keys are" in said[0]
    assert (loaded.description.engine, loaded.description.weights) == ("vllm", "bf16")
    assert "16 bits" in said[1]
    strategies = build_strategies(["deadline"])
    rows = [Request(key, [5, 6 + key, 7], max_new_tokens=12, strategies=strategies) for key in range(12)]
    answers = run(loaded.engine, rows)
    assert len(answers) == 12
    assert all(answer.verdict.ended_with_eos for answer in answers.values())
