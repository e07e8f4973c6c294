"""The thinking demo: it overthinks, ends inside its thought, forgets its answer; `think` with `whole` helps."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from endmark.client.engine import Engine
from endmark.jobs.landing import LANDED, START, advance
from endmark.jobs.vocabulary import EosSource, Part
from endmark.worker.models.loader import load_model, load_tokenizer
from examples.demo_model.corpus import answer

pytestmark = pytest.mark.engine

FOLDER = Path(__file__).parents[2] / "examples" / "thinking_model" / "model"
MOST_BYTES = 6_000_000
ROWS = 48


@pytest.fixture(scope="module")
def engine():
    return Engine(str(FOLDER), device="cpu")


@pytest.fixture(scope="module")
def prompts():
    rng = random.Random(2026)
    return [answer(rng, closed=True)[0] for _ in range(ROWS)]


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MOST_BYTES


def test_as_it_is_many_rows_have_no_answer(engine, prompts):
    """Of each kind: thoughts that spend the budget, an EOS inside, nothing behind, and answers behind thoughts."""
    found = engine.generate(prompts, max_new_tokens=192, temperature=0)
    without = [item for item in found if not item.text.strip()]
    assert len(without) >= 0.3 * ROWS
    kinds = Counter((item.verdict.finish_reason.value, item.ended_in, item.thought_closed) for item in without)
    assert kinds["length", Part.REASONING, None]
    assert kinds["eos", Part.REASONING, None]
    assert kinds["eos", Part.ANSWER, EosSource.NATURAL]
    answered = [item for item in found if item.text.strip() and item.reasoning]
    assert len(answered) >= 0.2 * ROWS
    assert not any("<think>" in item.text or "</think>" in item.text for item in found)
    assert not any(item.complete for item in found if item.ended_in is Part.REASONING)


def test_think_with_whole_makes_nearly_all_of_them_complete_at_the_same_total(engine, prompts):
    """The budgets of thought and answer are together what the rows had before."""
    found = engine.generate(prompts, strategy=["think:budget=64;whole"], max_new_tokens=128, temperature=0)
    assert sum(item.complete for item in found) >= 0.97 * ROWS
    assert all(item.ended_in is Part.ANSWER for item in found)
    assert all(item.completion_tokens <= 64 + 2 + 128 for item in found)
    sources = {item.thought_closed for item in found}
    assert sources == {EosSource.NATURAL, EosSource.BOOSTED, EosSource.FORCED}
    alone = engine.generate(prompts[:6], strategy=["think:budget=64;whole"], max_new_tokens=128, temperature=0)
    assert [(item.text, item.thought_closed) for item in alone] == [
        (item.text, item.thought_closed) for item in found[:6]
    ]


def reference(network, tokenizer, prompt, *, budget, answer, start=0.8, power=2.0, margin=20.0):
    """Thought, mark and answer drawn greedily from whole logits, and whose closing mark it was."""
    first, close, eos = (tokenizer.convert_tokens_to_ids(word) for word in ("<think>", "</think>", "</s>"))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    closing = [*tokenizer("\n", add_special_tokens=False)["input_ids"], close]
    said, put_in, source, spot, end = [], [], None, START, budget + len(closing) + answer
    past, fresh = DynamicCache(), ids
    while len(said) < end:
        with torch.no_grad():
            scores = network(torch.tensor([fresh]), past_key_values=past).logits[0, -1].float()
        n, token = len(said), int(scores.argmax())
        thinking = said[:1] == [first] and close not in said
        if thinking and not put_in:
            natural = token == close
            if spot >= LANDED and n > start * budget:
                others = scores.clone()
                others[close] = -torch.inf
                weight = min((n - start * budget) / (budget - start * budget), 1.0) ** power
                scores[close] += weight * max(0.0, float(others.max()) + margin - float(scores[close]))
                token = int(scores.argmax())
            if token == eos or n == budget:
                put_in = list(closing)
            elif token == close:
                source, end = EosSource.NATURAL if natural else EosSource.BOOSTED, n + 1 + answer
        if put_in:
            natural, token = token == close, put_in.pop(0)
            if token == close:
                source, end = EosSource.NATURAL if natural else EosSource.FORCED, n + 1 + answer
        elif token == eos:
            break
        spot = START if token == first and not said else advance(spot, tokenizer.decode([token]).encode())
        said.append(token)
        fresh = [token]
        if said[0] != first:
            end = answer
    return said, source


def test_closing_marks_come_where_and_as_a_reference_on_whole_logits_says(engine, prompts):
    network, tokenizer = load_model(str(FOLDER), device="cpu"), load_tokenizer(str(FOLDER))
    network.set_attn_implementation("sdpa")  # the engine's own needs its pages
    options = {"strategy": ["think:budget=64"], "max_new_tokens": 12, "temperature": 0}
    found = engine.generate(prompts[:12], **options)
    assert {item.thought_closed for item in found} == {EosSource.NATURAL, EosSource.BOOSTED, EosSource.FORCED}
    first = {item.thought_closed: item for item in reversed(found)}
    for item in first.values():
        said, source = reference(network, tokenizer, prompts[item.row], budget=64, answer=12)
        thought, _, behind = tokenizer.decode(said).removeprefix("<think>").partition("</think>")
        assert (item.thought_closed, item.reasoning, item.text) == (source, thought.strip(), behind.lstrip())


def test_marks_of_several_tokens_close_a_thought_that_ends_with_eos_as_those_of_one_do(engine, prompts):
    """The opening mark is given with the word behind it, so that the host tells of it and takes the EOS back."""
    options = {"max_new_tokens": 128, "temperature": 0}
    asked = engine.generate(prompts, **options)
    ended = [item.verdict.finish_reason.value == "eos" and item.ended_in is Part.REASONING for item in asked]
    chosen = [
        prompt
        for prompt, item, cut in zip(prompts, asked, ended, strict=True)
        if cut and item.reasoning.startswith("Let ")
    ][:4]
    assert len(chosen) >= 2
    one = engine.generate(chosen, strategy=["think:budget=200"], **options)
    several = engine.generate(
        chosen, strategy=["think:budget=200"], thinking_marks="<think>\nLet,</think>", **options
    )
    assert all(item.thought_closed is EosSource.FORCED for item in several)
    assert [item.text for item in several] == [item.text for item in one]
    assert [f"Let {item.reasoning}" for item in several] == [item.reasoning for item in one]
    assert [item.completion_tokens for item in several] == [item.completion_tokens for item in one]
