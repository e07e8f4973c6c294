"""Labels that are scored: shared places, the answer, its end, and rows beside it; on the scripted runner."""

import math
import random
from dataclasses import replace

import pytest

from endmark.jobs.sampling import Sampling
from endmark.jobs.shapes import Shape, ShapeKind
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.thinking import Marks
from endmark.jobs.vocabulary import EosSource, FinishReason
from endmark.worker.engine.choices import Choices
from endmark.worker.engine.choosing import ChoosingEngine
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.engine.thought import Thought
from endmark.worker.service.prompting import Prompter
from tests.unit.byte_tokenizer import ByteTokenizer
from tests.unit.test_contract_scripted import TestScripted as Contract

pytestmark = pytest.mark.unit

END, GOOD, BAD, VERY = 2, 10, 11, 12
VOCABULARY = Vocabulary([b""] * 3 + [bytes((33 + index,)) for index in range(3, 90)])
LABELS = Choices(("good", "bad", "very bad"), ((GOOD,), (BAD,), (VERY, BAD)), (END,))
SCRIPT = {  # by the tokens behind the prompt: what the model prefers there, and its probabilities
    (): (GOOD, {GOOD: 0.5, BAD: 0.3, VERY: 0.1}),
    (GOOD,): (END, {END: 0.2}),
    (BAD,): (50, {END: 0.4}),
    (VERY,): (BAD, {BAD: 1.0}),
    (VERY, BAD): (END, {END: 1.0}),
}


def engine(script=SCRIPT, **options):
    """Return an engine whose prompts are of tokens from 60 on, and which counts up for rows without labels."""

    def scripted(tokens):
        behind = tuple(token for token in tokens if token < 60)
        if tokens[0] == 89 or behind not in script:
            return Sampled(min(tokens[-1] + 1, 88))
        token, probs = script[behind]
        return Sampled(
            token, probs.get(END, 0.0), 0, log_probs={key: math.log(prob) for key, prob in probs.items()}
        )

    return ChoosingEngine(Engine(ScriptedRunner(scripted, eos_ids={END}, **options), VOCABULARY, {END}))


def run(subject, *requests):
    for request in requests:
        subject.add(request)
    done = {}
    while subject.has_work:
        for finished in subject.step():
            assert finished.key not in done
            done[finished.key] = finished
    return done


def labelled(key, **options):
    return Request(key, [60, 61, 62, 63, 64], max_new_tokens=8, choices=LABELS, **options)


@pytest.mark.parametrize("overlaps", [False, True])
def test_the_most_probable_label_is_the_answer_and_all_are_told(overlaps):
    """`bad` is less probable than `good` as a first token, but the model hardly ends behind `good`."""
    subject = engine(overlaps=overlaps)
    done = run(subject, labelled(0, trace=True), Request(1, [89, 60], max_new_tokens=3), labelled(2))
    found = done[0]
    assert found.choice_probs == pytest.approx({"good": 0.1 / 0.32, "bad": 0.12 / 0.32, "very bad": 0.1 / 0.32})
    assert (found.text, found.token_ids, found.completion_tokens, found.prompt_tokens) == ("bad", (BAD,), 1, 5)
    assert found.cached_tokens == 0
    assert found.verdict.finish_reason is FinishReason.EOS
    assert found.verdict.eos_source is EosSource.FORCED, "the model would have gone on behind `bad`"
    assert (found.trace.probs, found.trace.step_max) == (pytest.approx((0.0, 0.4), abs=1e-3), 1)
    assert done[2].choice_probs == found.choice_probs
    assert (done[1].token_ids, done[1].choice_probs) == ((61, 62, 63), None)
    assert subject.pages[0] == 0


def test_an_end_that_the_model_prefers_is_its_own():
    found = run(engine(SCRIPT | {(BAD,): (END, {END: 0.9})}), labelled(0))[0]
    assert (found.text, found.verdict.eos_source) == ("bad", EosSource.NATURAL)


def test_labels_compute_nothing_of_the_prompt_again():
    """Each label but the first computed anew what stands behind the prompt's last full page, 12 % of all tokens.

    Four labels of 290 tokens in pages of 16 are 294 tokens, and the rows' steps are full.
    """
    subject = engine(
        page_size=16, prefill_tokens=8192, piece_tokens=2048, num_pages=4000, max_rows=256, context=400
    )
    four = Choices(("a", "b", "c", "d"), ((3,), (4,), (5,), (6,)), (END,))
    draw = random.Random(3)
    prompts = [[draw.randrange(60, 89) for _ in range(290)] for _ in range(100)]
    run(subject, *(Request(key, prompt, max_new_tokens=8, choices=four) for key, prompt in enumerate(prompts)))
    plans = subject._engine.runner.plans
    tokens = [sum(row.end - row.cached for row in plan.prefill) for plan in plans]
    assert sum(tokens) == 100 * (290 + 4)
    assert all(8192 - 128 < count <= 8192 for count in tokens[:-1]), "steps with labels are as full as others"


def test_labels_that_do_not_fit_are_drawn():
    """No label is left out for its length: the row is answered as one without scores, under its mask."""
    found = run(engine(), Request(0, [60] * 5, max_new_tokens=2, choices=LABELS))[0]
    assert found.choice_probs is None


def test_a_row_that_cannot_be_scored_fails_alone_and_leaves_nothing():
    subject = engine({(): (GOOD, {GOOD: 0.5}), (GOOD,): (END, {END: math.nan})})
    done = run(subject, labelled(0), Request(1, [89, 60], max_new_tokens=2))
    assert done[0].verdict.finish_reason is FinishReason.ERROR
    assert "no numbers" in done[0].verdict.error
    assert (done[0].text, done[0].prompt_tokens, done[0].completion_tokens) == ("", 5, 0)
    assert done[1].verdict.finish_reason is FinishReason.LENGTH
    assert subject.pages[0] == 0


def test_a_cancelled_row_is_never_returned():
    subject = engine()
    subject.add(labelled(0))
    subject.cancel({0, 7})
    assert not subject.has_work
    assert run(subject, labelled(0))[0].text == "bad"


def test_a_label_that_the_model_does_not_know_fails_its_row_alone():
    subject = engine()
    subject._engine._admission = replace(subject._engine._admission, embeddings=70)
    unknown = Choices(("a", "b"), ((GOOD,), (BAD, 80)), (END,))
    done = run(subject, Request(0, [60], 8, choices=unknown), labelled(1))
    assert done[0].verdict.finish_reason is FinishReason.ERROR
    assert "a label" in done[0].verdict.error
    assert done[1].text == "bad"


def test_thousands_of_labels_do_not_all_wait_at_once():
    """10,000 labels in each of a thousand rows would be ten million attempts, each with its prompt."""
    subject = engine(max_rows=8)
    tokens = [(first, second) for first in range(3, 53) for second in range(3, 53)]
    many = Choices(tuple(map(str, tokens)), tuple(tokens), (END,))
    for key in range(3):
        subject.add(Request(key, [60] * 5, 8, choices=many))
    done, most = {}, 0
    while subject.has_work:
        done |= {item.key: item for item in subject.step()}
        most = max(most, subject._engine.waiting + subject._engine.running)
    assert most <= 16
    assert [len(done[key].choice_probs) for key in range(3)] == [2500] * 3


class TestChoosing(Contract):
    """What it passes on is what the engine beneath does."""

    def build(self, *, roomy=True):
        return ChoosingEngine(super().build(roomy=roomy))


class Labels:
    """What makes masks, with the labels as they are scored."""

    def maker(self, shape):
        return lambda token_ids, budget: None

    def choices(self, shape, encode):
        return Choices(shape.choices, tuple(map(tuple, encode(shape.choices))), (END,))


THINKS = Thought(Marks("<think>", "</think>"))


@pytest.mark.parametrize(
    ("options", "thought", "scored"),
    [
        ({}, None, True),
        ({"sampling": Sampling(seed=3, top_p=0.5)}, None, True),
        ({"sampling": Sampling(temperature=0.1)}, None, False),
        ({"sampling": Sampling(min_new_tokens=2)}, None, False),
        ({"strategies": build_strategies(["baseline"])}, None, True),
        ({"strategies": build_strategies(["soft-landing"])}, None, False),
        ({}, THINKS, False),
        ({"template_args": {"enable_thinking": False}}, THINKS, True),
        ({"template_args": {"enable_thinking": False}}, replace(THINKS, opened=True), False),
    ],
)
def test_greedy_rows_that_ask_for_nothing_else_are_scored(options, thought, scored):
    spec = GenerationSpec(model="m", shape=Shape(ShapeKind.CHOICES, '["ja", "no"]'), **options)
    found = Prompter(ByteTokenizer(), Labels())._choices(spec, thought)
    assert (found is not None) is scored


@pytest.mark.parametrize("along", [0, 1, 2, 9])
def test_each_place_is_scored_once(along):
    labels = ((3,), (3, 4), (5, 6, 7, 8), (5, 6, 9), (10, 11, 12))
    choices = Choices(tuple(map(str, labels)), labels, (END,))
    scored = [
        tokens[:at]
        for tokens, before in choices.attempts(along)
        for at in range(len(tokens) - before, len(tokens) + 1)
    ]
    assert len(scored) == len(set(scored))
    assert set(scored) == set(choices.places)
    assert set(labels) <= {tokens for tokens, _ in choices.attempts(along)}


@pytest.mark.parametrize(("behind", "source"), [(END, EosSource.NATURAL), (50, EosSource.FORCED)])
def test_whose_end_a_label_of_several_tokens_has_is_told_behind_the_last_of_them(behind, source):
    script = {
        **SCRIPT,
        (): (VERY, {GOOD: 0.05, BAD: 0.05, VERY: 0.9}),
        (VERY, BAD): (behind, {END: 0.9}),
    }
    found = run(engine(script), labelled(0))[0]
    assert (found.text, found.token_ids, found.completion_tokens) == ("very bad", (VERY, BAD), 2)
    assert found.verdict.eos_source is source
    assert (found.trace.prob_max, found.trace.step_max) == (pytest.approx(0.9), 2)
