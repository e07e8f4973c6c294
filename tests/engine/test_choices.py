"""Labels scored by the model: against a reference in fp32, beside other rows, and from a table to its columns."""

import functools
import math
from dataclasses import replace

import pytest
import torch

from endmark.client.engine import Engine
from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.choices import Choices
from endmark.worker.engine.choosing import ChoosingEngine
from endmark.worker.engine.request import Request
from tests.engine import test_contract_plain as plain
from tests.engine.conftest import build_model
from tests.engine_contract import check_told_probabilities, run, same

pytestmark = pytest.mark.engine

LABELS = Choices(
    ("a", "b", "ab", "abc", "other"),
    ((5,), (6,), (5, 6), (5, 6, 7), (70, 71, 72, 73, 74)),
    tuple(sorted(plain.ENDS)),
)
PROMPTS = [[80, *range(3, 3 + length)] for length in (1, 4, 11, 30)]


@functools.cache
def eager():
    """The same model under transformers' own attention."""
    return build_model("llama", attention="eager")


def reference(prompt, choices):
    """Each label's probability among the labels, by one pass of the model over the prompt and the label alone."""
    sums = []
    for label in choices.token_ids:
        with torch.inference_mode():
            logits = eager()(input_ids=torch.tensor([[*prompt, *label]]), use_cache=False).logits[0]
        scores = logits.float().log_softmax(-1)
        told = [scores[len(prompt) - 1 + at, token].item() for at, token in enumerate(label)]
        sums.append(sum(told) + scores[-1, list(choices.eos_ids)].logsumexp(0).item())
    return torch.tensor(sums, dtype=torch.float64).softmax(0).tolist()


def test_labels_have_the_probabilities_of_the_reference():
    engine = ChoosingEngine(plain.TestPlain().build())
    requests = [Request(key, prompt, 8, choices=LABELS) for key, prompt in enumerate(PROMPTS)]
    drawn = [Request(10 + key, prompt, 8) for key, prompt in enumerate(PROMPTS)]
    done = run(engine, [item for pair in zip(requests, drawn, strict=True) for item in pair])
    alone = run(plain.TestPlain().build(), drawn)
    assert all(same(done[item.key], alone[item.key]) for item in drawn)
    for key, prompt in enumerate(PROMPTS):
        expected = dict(zip(LABELS.labels, reference(prompt, LABELS), strict=True))
        assert done[key].choice_probs == pytest.approx(expected, abs=1e-4)
        assert done[key].text == max(expected, key=expected.get)


def test_the_plain_engine_tells_probabilities():
    check_told_probabilities(plain.TestPlain().build(), plain.SHAPE["vocab_size"])


def test_a_table_is_labelled():
    """The bundled model with its own tokeniser; a row's own column has other labels, or is drawn."""
    engine = Engine()
    rows = [
        {"prompt": "Is the sky blue?", "choices": "", "temperature": ""},
        {"prompt": "Is the sky blue?", "choices": '["maybe", "perhaps, or not"]', "temperature": ""},
        {"prompt": "Is the sky blue?", "choices": "", "temperature": "1"},
    ]
    found = engine.generate(rows, choices="Yes,No,I do not know", max_new_tokens=24, temperature=0)
    assert [set(item.choice_probs or ()) for item in found] == [
        {"Yes", "No", "I do not know"},
        {"maybe", "perhaps, or not"},
        set(),
    ]
    for item in found[:2]:
        assert item.text == max(item.choice_probs, key=item.choice_probs.get)
        assert math.fsum(item.choice_probs.values()) == pytest.approx(1)
    assert all(item.valid and item.verdict.finish_reason is FinishReason.EOS for item in found)


@pytest.mark.parametrize("option", [{"strategies": "soft-landing"}, {"repetition_penalty": 1.2}])
def test_options_that_change_scores_let_the_label_be_drawn(option):
    (found,) = Engine().generate(["Hi."], choices="Yes,No", max_new_tokens=24, temperature=0, **option)
    assert found.choice_probs is None
    assert found.valid


def test_a_label_that_is_a_control_token_is_written_as_text():
    """A tokeniser reads `</s>` in a text as its end token, which no answer holds."""
    engine = Engine()
    found = engine.generate(["Hi."], choices='["</s>", "<|endoftext|>", "<|im_end|>"]', max_new_tokens=40)
    assert math.fsum(found[0].choice_probs.values()) == pytest.approx(1)
    assert found[0].valid


def test_equal_labels_scores_take_the_first():
    same = replace(LABELS, labels=("x", "y"), token_ids=((5,), (6,)))
    ends = [-2.0] * len(plain.ENDS)
    told = {(): [*ends, -1.0, -1.0], (5,): ends, (6,): ends}
    assert same.probabilities(told) == [0.5, 0.5]
