"""The engine over vLLM beside our own, on the demo model: same seeds, strategies and samplings, same answers."""

import random
from pathlib import Path
from threading import Thread

import pytest
from transformers import AutoModelForCausalLM, GPTJConfig

from endmark.client.engine import Engine as Client
from endmark.jobs.engines import ANY_ENGINE, EngineChoice
from endmark.jobs.errors import MissingDependency, ModelError
from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import EosSource, FinishReason, Part
from endmark.worker.engine.choices import Choices
from endmark.worker.engine.choosing import ChoosingEngine
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine
from endmark.worker.service.engines import load_chosen
from endmark.worker.vllm import block
from endmark.worker.vllm.block import MOST_ASKED, Block
from endmark.worker.vllm.loading import chosen_weights, load_vllm_engine
from examples.demo_model.corpus import answer
from tests.engine_contract import run, same
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.engine

PACKAGE = Path(__file__).parents[1] / "fakes" / "vllm_package"
STRATEGIES = [
    [],
    ["deadline"],
    ["soft-landing", "trim"],
    ["exp-decay", "no-loops"],
    ["eos-reward"],
    ["rewind"],
    ['stop:text="a"'],
    ["whole"],
]
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.9, top_p=0.9, seed=3),
    Sampling(repetition_penalty=1.3, dry_multiplier=0.8),
    Sampling(temperature=1.0, top_k=40, min_p=0.02, presence_penalty=0.4, seed=5, min_new_tokens=3),
]
PROMPTS = ["Count to nine.", "Say hello.", "Name two colours.", "What is rain?", "Tell a story."]


@pytest.fixture(scope="module")
def both():
    """Our engine and the one over vLLM, with the weights as the file has them."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(PACKAGE))
    own = load_engine("demo", max_rows=8, four_bits=False)
    other = load_vllm_engine("demo", device="cpu", weights="16bit", max_rows=8)
    yield own, other
    patch.undo()


def requests_of(loaded):
    """Rows of all kinds in one batch."""
    encode = loaded.tokenizer
    return [
        Request(
            key=key,
            prompt_token_ids=encode(PROMPTS[key % 5])["input_ids"],
            max_new_tokens=(12, 40, 24)[key % 3],
            stream=key,
            sampling=SAMPLINGS[(key // 8) % 4],
            strategies=build_strategies(STRATEGIES[key % 8]),
            trace=True,
        )
        for key in range(32)
    ]


def test_rows_of_all_kinds_end_as_they_do_with_our_engine(both):
    """Token for token, with the same verdicts: the draw, its seeds and its arithmetic are the same."""
    own, other = both
    requests = requests_of(own)
    want, got = (run(loaded.engine, requests) for loaded in both)
    for key in want:
        assert same(got[key], want[key]), key
        assert (got[key].rewinds, got[key].lengths) == (want[key].rewinds, want[key].lengths)
        assert got[key].trace.probs == pytest.approx(want[key].trace.probs, rel=1e-3, abs=1e-5)
    sources = {finished.verdict.eos_source for finished in got.values()}
    assert sources >= {EosSource.NATURAL, EosSource.BOOSTED, EosSource.FORCED}, "a weak example"
    assert {finished.verdict.finish_reason for finished in got.values()} >= {FinishReason.STOP_SEQUENCE}
    assert other.engine.pages[0] == 0


def test_rows_end_alike_where_the_model_is_on_several_hosts(both):
    """Sentences, masks and calls travel there, and results back."""
    own, _ = both
    other = load_vllm_engine(
        "demo", device="cpu", weights="16bit", max_rows=8, kv_cache="fp8", tensor_parallel=2, executor="ray"
    )
    assert other.description.weights == "fp32, fp8 cache"
    requests = requests_of(own)[:16]
    wanted, found = run(own.engine, requests), run(other.engine, requests)
    for key, finished in wanted.items():
        assert same(found[key], finished), key


def test_labels_are_scored_as_with_our_engine(both):
    own, _ = both
    labels = ("yes", "no", "maybe so")
    ids = tuple(tuple(own.tokenizer(label, add_special_tokens=False)["input_ids"]) for label in labels)
    choices = Choices(labels, ids, tuple(sorted(own.engine.eos_ids)))
    requests = [
        Request(key, own.tokenizer(prompt)["input_ids"], max_new_tokens=8, choices=choices)
        for key, prompt in enumerate(PROMPTS)
    ]
    want, got = (run(ChoosingEngine(loaded.engine), requests) for loaded in both)
    for key in want:
        assert got[key].text == want[key].text
        assert got[key].choice_probs == pytest.approx(want[key].choice_probs, rel=1e-3)


def test_more_labels_than_can_be_told_are_refused(both):
    _, other = both
    request = Request(0, [5, 6], max_new_tokens=1, asked=[3] * (MOST_ASKED + 1))
    with pytest.raises(ModelError, match="asks for the probabilities of 4,097 tokens"):
        other.engine.add(request)
    assert not other.engine.has_work


def test_what_is_loaded_is_said(both):
    _, other = both
    assert other.description.weights == "fp32"
    assert other.description.kv_tokens == other.engine.capacity.kv_tokens > 0


def test_prompts_go_in_steps_of_the_size_that_vllm_has_for_batches(both):
    """They went in steps of 2,048 tokens, vLLM's default for an engine by itself; batches have up to 16,384."""
    _, other = both
    assert other.engine.core._llm.vllm_config.scheduler_config.max_num_batched_tokens == 8192


def test_a_place_that_becomes_free_is_taken_in_the_next_step(both):
    """As vLLM would take it for a row that waits with itself."""
    _, other = both
    engine, sizes = other.engine, []
    ids = other.tokenizer(PROMPTS[0])["input_ids"]
    for key in range(32):
        engine.add(Request(key=key, prompt_token_ids=ids, max_new_tokens=4 + key % 3, stream=key))
    while engine.waiting:
        engine.step()
        sizes.append(len(engine.core._llm._runner.batch))
    while engine.has_work:
        engine.step()
    assert set(sizes) == {engine.capacity.rows}


def test_shared_memory_that_is_too_small_is_told_with_what_enlarges_it(tmp_path, monkeypatch):
    """A container has 64 MB of it, and it was an unexpected OSError; a file was left there."""
    monkeypatch.setattr(block, "_MEMORY", tmp_path)
    with pytest.raises(ModelError, match="there is no room in") as caught:
        Block.make(100_000_000, 128_256)  # some terabytes
    assert "--shm-size" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_dies_says_so(both, monkeypatch):
    _, other = both
    monkeypatch.setattr(other.engine.core._llm, "step", lambda: (_ for _ in ()).throw(KeyError("rank 1")))
    other.engine.add(Request(0, [5, 6], max_new_tokens=4))
    with pytest.raises(RuntimeError, match="vLLM's engine has died: 'rank 1'"):
        other.engine.step()
    other.engine.cancel([0])


def test_vllm_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("endmark.worker.vllm.loading.has_vllm", lambda: False)
    with pytest.raises(MissingDependency, match="needs the extra `vllm`"):
        load_vllm_engine("demo", device="cpu")


@pytest.mark.parametrize(
    ("weights", "own", "found"),
    [
        ("auto", None, ("bitsandbytes", "nf4")),
        ("auto", {"quant_method": "fp8"}, (None, "fp8")),
        ("nf4", None, ("bitsandbytes", "nf4")),
        ("checkpoint", {"quant_method": "awq"}, (None, "awq")),
        ("auto", {"quant_method": "gptq", "bits": 4, "group_size": 128}, (None, "gptq, 4 bits")),
        (
            "auto",
            {"quant_method": "compressed-tensors", "format": "float-quantized"},
            (None, "compressed-tensors, float-quantized"),
        ),
        ("16bit", None, (None, None)),
    ],
)
def test_weights_are_those_of_the_file_or_quantised_as_they_are_loaded(weights, own, found):
    assert chosen_weights(weights, own) == found


def test_weights_that_vllm_cannot_quantise_as_it_loads_them_are_taken_in_sixteen_bits(both, tmp_path):
    """`endmark run` of such a model failed with the advice to take `--weights 16bit`, which it does not have."""
    config = GPTJConfig(vocab_size=258, n_embd=64, n_layer=2, n_head=4, n_positions=256, rotary_dim=8)
    save_tiny_model(tmp_path)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    said = []
    loaded = load_chosen(ANY_ENGINE, str(tmp_path), told=said.append, device="cpu", max_rows=8)
    assert loaded.description.weights == "fp32"
    assert "vLLM's engine serves: Endmark cannot run GPTJForCausalLM" in said[0]
    assert said[1:] == ["the weights are in 16 bits: vLLM does not quantise this kind of model as it loads it"]
    assert len(run(loaded.engine, [Request(0, [5, 6, 7], max_new_tokens=4)])) == 1
    with pytest.raises(ModelError, match="does not support BitsAndBytes") as caught:
        load_chosen(EngineChoice("vllm"), str(tmp_path), device="cpu", weights="nf4")
    assert "--weights 16bit" in caught.value.hint


def test_another_thread_than_the_one_that_loaded_may_step(both):
    """vLLM gives a thread its stream when it first asks, during its first step; the stand-in refuses that."""
    _, other = both
    found = []
    request = Request(key=0, prompt_token_ids=[5, 6, 7], max_new_tokens=4)
    thread = Thread(target=lambda: found.append(run(other.engine, [request])))
    thread.start()
    thread.join()
    assert [len(item) for item in found] == [1]


@pytest.mark.parametrize(
    ("weights", "own", "said"),
    [
        ("checkpoint", None, "is not quantised"),
        ("nf4", {"quant_method": "gptq"}, "is quantised already: gptq"),
        ("packed", None, "has no weights `packed`"),
    ],
)
def test_weights_that_cannot_be_had_are_refused(weights, own, said):
    with pytest.raises(ModelError, match=said):
        chosen_weights(weights, own)


def test_shapes_are_kept_and_rows_beside_them_are_as_they_were(both):
    """With steps that overlap: a mask is asked for when the row's last token is known."""
    engine = Client("demo", engine="vllm", device="cpu", weights="16bit", max_rows=8)
    prompts = [*PROMPTS[:3], *PROMPTS[:3]]
    shapes = ['{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}', None]
    rows = [{"prompt": prompt, "json_schema": shapes[at % 2]} for at, prompt in enumerate(prompts)]
    options = {"max_new_tokens": 60, "temperature": 1.0, "seed": 1}
    plain, mixed = engine.generate(prompts, **options), engine.generate(rows, **options)
    assert [answer.valid for answer in mixed] == [True, None] * 3, [answer.text for answer in mixed]
    assert [answer.text for answer in mixed[1::2]] == [answer.text for answer in plain[1::2]]


@pytest.mark.slow
def test_thoughts_are_closed_by_all_that_may_close_them(both):
    folder = Path(__file__).parents[2] / "examples" / "thinking_model" / "model"
    engine = Client(str(folder), engine="vllm", device="cpu", weights="16bit", max_rows=16)
    rng = random.Random(2026)
    prompts = [answer(rng, closed=True)[0] for _ in range(16)]
    found = engine.generate(prompts, strategy=["think:budget=64;whole"], max_new_tokens=96, temperature=0)
    assert all(item.ended_in is Part.ANSWER for item in found)
    assert sum(item.complete for item in found) >= 15
    assert {item.thought_closed for item in found} == {EosSource.NATURAL, EosSource.BOOSTED, EosSource.FORCED}
