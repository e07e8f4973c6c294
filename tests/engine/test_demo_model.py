"""The bundled model: small, loaded like any other, with the stopping problem, and answers that can be read."""

import csv
import re
from pathlib import Path

import pytest

from endmark.jobs.prompts import RowRequest
from endmark.jobs.sentences import ends_sentence
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import EosSource, FinishReason
from endmark.worker.demo import MODEL_DIR
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine
from endmark.worker.service.prompting import Prompt, Prompter
from examples.demo_model.phrases import PLACES

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
UNSEEN = "Zanzibar Reykjavik Belgrade Samarkand Tirana Kigali Perth Portland Cusco Bergen Ghent Malaga".split()
MOST_BYTES = 8_000_000


@pytest.fixture(scope="module")
def demo():
    return load_engine("demo", device="cpu")


def answers(demo, prompts, max_new_tokens=256, strategies=()):
    encoded = Prompter(demo.tokenizer).encode(
        [Prompt(GenerationSpec(), RowRequest(prompt, None, {})) for prompt in prompts]
    )
    for key, prompt in enumerate(encoded):
        demo.engine.add(
            Request(
                key=key,
                prompt_token_ids=prompt.token_ids,
                max_new_tokens=max_new_tokens,
                strategies=build_strategies(strategies),
            )
        )
    found = {}
    while demo.engine.has_work:
        found.update((finished.key, finished) for finished in demo.engine.step())
    return [found[key] for key in range(len(prompts))]


def example_prompts():
    with (ROOT / "examples" / "prompts.csv").open(newline="", encoding="utf-8") as file:
        return [row["prompt"] for row in csv.DictReader(file)]


def test_it_is_small_and_complete():
    sizes = {path.name: path.stat().st_size for path in MODEL_DIR.iterdir()}
    assert sum(sizes.values()) <= MOST_BYTES
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)


def test_its_end_token_is_its_own(demo):
    tokenizer = demo.tokenizer
    assert demo.engine.eos_ids == {tokenizer.eos_token_id}
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.chat_template is not None


def test_a_good_part_of_its_answers_does_not_end(demo):
    """As the example prompts show it: between 20 % and 80 % are cut; those that end, end with a sentence."""
    prompts = example_prompts()
    assert len(set(prompts)) >= 60
    found = answers(demo, prompts)
    cut = [item for item in found if item.verdict.finish_reason is FinishReason.LENGTH]
    ended = [item for item in found if item.verdict.eos_source is EosSource.NATURAL]
    assert len(cut) + len(ended) == len(prompts)
    assert 0.2 <= len(cut) / len(prompts) <= 0.8
    assert sum(ends_sentence(item.text) for item in ended) >= 0.95 * len(ended)
    # A cut answer was never about to end: it is not the budget alone that is too small.
    assert sum(item.trace.prob_max < 0.5 for item in cut) >= 0.9 * len(cut)


def test_soft_landing_gives_the_most_complete_answers_of_the_score_strategies(demo):
    """As `benchmarks/strategies.py` measures it: ended by EOS where a sentence ends."""
    prompts = example_prompts()[::2]
    complete = {}
    for name in ("soft-landing", "eos-reward", "exp-decay"):
        found = answers(demo, prompts, 96, [name])
        ended = [item for item in found if item.verdict.ended_with_eos]
        complete[name] = sum(ends_sentence(item.text) for item in ended) / len(prompts)
    assert complete["soft-landing"] >= 0.95
    assert complete["soft-landing"] >= max(complete["eos-reward"], complete["exp-decay"]) + 0.1


@pytest.mark.parametrize(
    "question", ["What can I do in {}?", "Tell me about {}.", "Give me three ideas for a day in {}."]
)
def test_a_place_that_its_training_never_named_gets_a_readable_answer(demo, question):
    """Sentences of words, and nearly every name as it was asked for."""
    assert not set(UNSEEN) & set(PLACES)
    found = answers(demo, [question.format(place) for place in UNSEEN], 160)
    for item in found:
        words = re.findall(r"[A-Za-z]+", item.text)
        assert len(words) >= 20
        assert item.text.count(".") >= 3
        assert "\ufffd" not in item.text
    assert sum(place in item.text for place, item in zip(UNSEEN, found, strict=True)) >= len(UNSEEN) - 2


def test_expanded_weights_give_the_answers_of_packed_ones():
    """Greedy, token by token: both multiply the same dequantised values."""
    prompts = example_prompts()[:8]
    found = {}
    for weights in ("packed", "expanded"):
        loaded = load_engine("demo", device="cpu", weights=weights)
        assert loaded.description.weights == weights
        found[weights] = answers(loaded, prompts, 96)
    for packed, expanded in zip(found["packed"], found["expanded"], strict=True):
        assert packed.token_ids == expanded.token_ids
        assert len(packed.token_ids) >= 10
        assert packed.trace.prob_max == pytest.approx(expanded.trace.prob_max, abs=1e-5)
