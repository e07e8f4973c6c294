"""The engine on CUDA against transformers' own eager attention and against the plain path."""

import csv
import random
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.jobs.landing import STATES
from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies
from endmark.worker.demo import MODEL_DIR
from endmark.worker.engine.attention import PLAIN
from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.plain_runner import PlainRunner
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary

pytestmark = pytest.mark.gpu

SHAPE = {
    "vocab_size": 384,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "llama-64": LlamaConfig(**SHAPE, num_key_value_heads=4, head_dim=64),
    "llama-80": LlamaConfig(**SHAPE, num_key_value_heads=2, head_dim=80),
    "llama-96": LlamaConfig(**SHAPE, num_key_value_heads=4, head_dim=96),
    "mistral-window": MistralConfig(**SHAPE, num_key_value_heads=2, head_dim=128, sliding_window=24),
    "qwen2": Qwen2Config(**{**SHAPE, "hidden_size": 256}, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=128),
    "gemma": GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=256),
    "gemma2": Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=256, sliding_window=32),
}
VOCABULARY = Vocabulary([bytes((65 + index % 26,)) for index in range(2048)])
MIXED = (["eos-reward:start=0.2"], ["soft-landing"], [], ["exp-decay"], ["stop:text=QR"], ["no-loops"])


def build_model(name, attention):
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=attention, dtype=torch.float32)
    model.generation_config.eos_token_id = 2
    return model.eval().cuda()


def build_engine(kind, model, eos=2, **options):
    defaults = {"num_pages": 96, "page_size": 16, "max_rows": 24, "prefill_tokens": 256, "context": 200}
    if kind is CudaRunner:
        defaults["piece_tokens"] = 64
    table = torch.zeros(STATES, model.config.vocab_size, dtype=torch.uint8)
    return Engine(kind(model, {eos}, sentence_table=table, **{**defaults, **options}), VOCABULARY, {eos})


def run(engine, requests):
    for request in requests:
        engine.add(request)
    done = {}
    while engine.has_work:
        done.update((finished.key, finished) for finished in engine.step())
    return done


def make_requests(count, seed=1, budget=60, vocabulary=384, **options):
    rng = random.Random(seed)
    return [
        Request(
            key=key,
            prompt_token_ids=[rng.randrange(3, vocabulary) for _ in range(rng.randrange(1, 90))],
            max_new_tokens=rng.randrange(1, budget),
            stream=key,
            **options,
        )
        for key in range(count)
    ]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_architecture_decodes_as_eager_attention_does(name):
    """With few pages, so that rows are preempted and computed again as well."""
    engine = build_engine(CudaRunner, build_model(name, PLAIN), num_pages=40)
    requests = make_requests(40)
    done = run(engine, requests)
    assert engine.preemptions > 0
    model = build_model(name, "eager")
    for request in requests:
        prompt = torch.tensor([request.prompt_token_ids], device="cuda")
        with torch.inference_mode():
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=request.max_new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        expected = output[0, prompt.shape[1] :].tolist()
        ended = expected[-1] == 2
        assert list(done[request.key].token_ids) == (expected[:-1] if ended else expected)


def test_mixed_rows_are_those_of_the_plain_path():
    rng = random.Random(5)
    requests = []
    for request in make_requests(120):
        sampling = Sampling(rng.choice([0.0, 0.7, 1.2]), rng.choice([0, 20]), rng.choice([1.0, 0.8]), seed=3)
        strategies = build_strategies(rng.choice(MIXED))
        requests.append(
            Request(
                key=request.key,
                prompt_token_ids=request.prompt_token_ids,
                max_new_tokens=request.max_new_tokens,
                sampling=sampling,
                strategies=tuple(strategies),
                stream=request.key,
            )
        )
    fast = run(build_engine(CudaRunner, build_model("llama-64", PLAIN)), requests)
    plain = run(build_engine(PlainRunner, build_model("llama-64", PLAIN)), requests)
    for key, finished in plain.items():
        assert fast[key].token_ids == finished.token_ids
        assert fast[key].verdict == finished.verdict
        assert fast[key].trace.prob_max == pytest.approx(finished.trace.prob_max, abs=1e-5)


def test_a_prefill_without_room_is_halved(monkeypatch):
    """The model raises out-of-memory above so many tokens; the rows are computed all the same."""
    model = build_model("llama-64", PLAIN)
    engine = build_engine(CudaRunner, model)
    requests = make_requests(20, seed=4)
    inner = model.forward

    def small(*args, **kwargs):
        if kwargs["input_ids"].shape[1] > 70:
            raise torch.OutOfMemoryError("no room")
        return inner(*args, **kwargs)

    monkeypatch.setattr(model, "forward", small)
    done = run(engine, requests)
    assert engine.runner._passes.limit <= 70
    plain = run(build_engine(PlainRunner, build_model("llama-64", PLAIN)), requests)
    assert {key: item.token_ids for key, item in done.items()} == {
        key: item.token_ids for key, item in plain.items()
    }


def demo_requests():
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    prompts = Path(__file__).parents[2] / "examples" / "prompts.csv"
    with prompts.open(newline="", encoding="utf-8") as handle:
        texts = [row["prompt"] for row in csv.DictReader(handle)]
    ids = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in texts
    ]
    return [
        Request(key=key, prompt_token_ids=list(prompt), max_new_tokens=256, stream=key)
        for key, prompt in enumerate(ids)
    ]


def demo_model(dtype):
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=dtype, attn_implementation=PLAIN).eval().cuda()


DEMO = {"num_pages": 2000, "context": 1024, "max_rows": 64, "prefill_tokens": 4096, "eos": 1}


def test_the_trained_model_in_fp32_gives_the_same_tokens():
    fast = run(build_engine(CudaRunner, demo_model(torch.float32), **DEMO), demo_requests())
    plain = run(build_engine(PlainRunner, demo_model(torch.float32), **DEMO), demo_requests())
    assert {key: item.token_ids for key, item in fast.items()} == {
        key: item.token_ids for key, item in plain.items()
    }


def test_the_trained_model_in_bf16_differs_only_at_near_ties():
    requests = demo_requests()
    fast = run(build_engine(CudaRunner, demo_model(torch.bfloat16), **DEMO), requests)
    plain = run(build_engine(PlainRunner, demo_model(torch.bfloat16), **DEMO), requests)
    differing = [key for key in plain if fast[key].token_ids != plain[key].token_ids]
    assert len(differing) <= 0.05 * len(plain), differing
    model = demo_model(torch.bfloat16)
    model.set_attn_implementation("eager")
    for key in differing:
        first, second = fast[key].token_ids, plain[key].token_ids
        same = next(
            (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
            min(len(first), len(second)),
        )
        tokens = torch.tensor([[*requests[key].prompt_token_ids, *second[:same]]], device="cuda")
        with torch.inference_mode():
            top = model(tokens).logits[0, -1].float().topk(2).values
        assert top[0] - top[1] <= 2 * 2**-7 * top[0].abs(), f"row {key} differs at token {same}, not a near tie"
