"""Two adapters in one batch of vLLM on a card: a row's tokens are those of a model with its adapter added."""

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'endmark[vllm]'")

from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.vllm.adapters import Adapters
from endmark.worker.vllm.block import Block
from endmark.worker.vllm.core import VllmCore
from endmark.worker.vllm.engine import VllmEngine
from endmark.worker.vllm.loading import build_llm, engine_options

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # those of vLLM are its own

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where a stand-in runs it
TOKENS, ROWS, NEW, RANK = 256, 12, 16, 8
TIE = 0.15  # of the scores' spread: what bf16 leaves open
TARGETS = {
    "self_attn.q_proj": 256,
    "self_attn.v_proj": 128,
    "mlp.down_proj": 256,
}  # with the sizes of their outputs
INPUTS = {"self_attn.q_proj": 256, "self_attn.v_proj": 256, "mlp.down_proj": 512}


def save_network(folder):
    torch.manual_seed(7)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **sizes,
        num_key_value_heads=2,
        vocab_size=TOKENS,
        max_position_embeddings=256,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(torch.bfloat16).save_pretrained(folder)


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def save_adapter(folder, base, seed):
    """Write an adapter of noise; return the model that it was added to."""
    folder.mkdir()
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    names = [name.rpartition(".")[2] for name in TARGETS]
    said |= {"target_modules": names, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    merged, tensors = loaded(base), {}
    torch.manual_seed(seed)
    for index, layer in enumerate(merged.model.layers):
        for name, size in TARGETS.items():
            a, b = 0.1 * torch.randn(RANK, INPUTS[name]), 0.1 * torch.randn(size, RANK)
            place = f"base_model.model.model.layers.{index}.{name}"
            tensors[f"{place}.lora_A.weight"], tensors[f"{place}.lora_B.weight"] = a.bfloat16(), b.bfloat16()
            layer.get_submodule(name).weight.data += (2 * b.bfloat16().float() @ a.bfloat16().float()).bfloat16()
    save_file(tensors, folder / "adapter_model.safetensors")
    return merged


def test_rows_of_two_adapters_and_of_none_share_a_batch(tmp_path):
    base = tmp_path / "base"
    save_network(base)
    folders = [tmp_path / "first", tmp_path / "second"]
    models = [loaded(base), *(save_adapter(folder, base, seed) for seed, folder in enumerate(folders))]
    named = [None, *map(str, folders)]
    adapters = Adapters(str(base), str(base), most=2)
    block = Block.make(ROWS, TOKENS)
    options = {"model": str(base), "max_model_len": 128, "enforce_eager": True}
    options |= {"gpu_memory_utilization": 0.08, "kv_cache_memory_bytes": 1 << 30}
    llm, _ = build_llm(engine_options(block, {2}) | adapters.options() | options)
    block.unlink()
    core = VllmCore(llm, {2}, adapters)
    engine = VllmEngine(core, block, Vocabulary([b""] * 3 + [b"x"] * (TOKENS - 3)), {2}, embeddings=TOKENS)
    prompts = [[1, *torch.randint(3, TOKENS, (4 + key // 3,)).tolist()] for key in range(ROWS)]
    for key, prompt in enumerate(prompts):
        engine.add(Request(key=key, prompt_token_ids=prompt, max_new_tokens=NEW, adapter=named[key % 3]))
    done = []
    while engine.has_work:
        done += engine.step()
    own, others = Counter(), Counter()
    for item in done:
        tokens = [*item.token_ids, *([item.end_token_id] if item.end_token_id is not None else [])]
        for place, model in enumerate(models):
            counts = own if place == item.key % 3 else others
            counts.update(near(model.to(DEVICE), prompts[item.key], tokens))
    assert len(done) == ROWS
    assert own["near"] == own["all"], own
    assert others["near"] < 0.5 * others["all"], "the adapters tell"


@torch.inference_mode()
def near(model, prompt, tokens):
    """Count the tokens of an answer, and those that are a model's best, or nearly."""
    scores = model(input_ids=torch.tensor([[*prompt, *tokens[:-1]]], device=DEVICE)).logits[0].float().cpu()
    scores = scores[len(prompt) - 1 :]
    gaps = scores.amax(-1) - scores.gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1)
    return {"all": len(tokens), "near": int((gaps <= TIE * scores.std(-1)).sum())}
