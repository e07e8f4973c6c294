"""The engine on the plain path equals transformers' own greedy decoding, one row at a time, in fp32."""

import random

import pytest
import torch

from endmark.jobs.sampling import Sampling
from endmark.jobs.vocabulary import NOT_NUMBERS, FinishReason
from endmark.worker.engine.cpu.blocks import speed_up
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.plain_runner import PlainRunner, _groups
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from tests.engine.conftest import build_model

pytestmark = pytest.mark.engine

VOCABULARY = Vocabulary([bytes((65 + index % 26,)) for index in range(384)])


def build_engine(model, **options):
    defaults = {"num_pages": 64, "page_size": 16, "max_rows": 8, "prefill_tokens": 256, "context": 200}
    return Engine(PlainRunner(model, {2}, **{**defaults, **options}), VOCABULARY, {2})


def run(engine, requests):
    for request in requests:
        engine.add(request)
    done = {}
    while engine.has_work:
        done.update((finished.key, finished) for finished in engine.step())
    return done


def make_requests(count=20, seed=1, **options):
    rng = random.Random(seed)
    return [
        Request(
            key=key,
            prompt_token_ids=[rng.randrange(3, 384) for _ in range(rng.randrange(1, 50))],
            max_new_tokens=rng.randrange(1, 60),
            stream=key,
            **options,
        )
        for key in range(count)
    ]


@pytest.mark.parametrize("prepare", [lambda model: None, speed_up], ids=["modules", "blocks"])
def test_continuous_batching_equals_one_row_at_a_time(architecture, prepare):
    """With few pages, so that rows are preempted and computed again as well."""
    served = build_model(architecture)
    prepare(served)
    engine = build_engine(served, num_pages=24)
    requests = make_requests()
    done = run(engine, requests)
    assert engine.preemptions > 0
    model = build_model(architecture, attention="eager")
    for request in requests:
        prompt = torch.tensor([request.prompt_token_ids])
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
        assert done[request.key].verdict.ended_with_eos == ended


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=3),
        Sampling(temperature=0.7, top_k=20, seed=3),
        Sampling(temperature=1.3, top_p=0.8, seed=3),
    ],
)
def test_a_sample_does_not_depend_on_the_batch(sampling):
    model = build_model("llama")
    together = run(build_engine(model), make_requests(12, sampling=sampling))
    others = run(build_engine(model, max_rows=3), make_requests(12, seed=1, sampling=sampling))
    for request in make_requests(12, sampling=sampling):
        alone = run(build_engine(model, max_rows=1), [request])[request.key]
        assert together[request.key].token_ids == alone.token_ids == others[request.key].token_ids


def test_seeds_and_rows_draw_differently():
    model = build_model("llama")
    prompt = [5, 6, 7]
    requests = [
        Request(
            key=stream,
            prompt_token_ids=prompt,
            max_new_tokens=20,
            sampling=Sampling(2.0, seed=seed),
            stream=stream,
        )
        for stream, seed in enumerate((0, 0, 1, 1))
    ]
    answers = {finished.token_ids for finished in run(build_engine(model), requests).values()}
    assert len(answers) == 4


def test_eos_probability_is_that_of_the_raw_scores():
    model = build_model("llama")
    request = Request(key=0, prompt_token_ids=[9, 8, 7, 6], max_new_tokens=12, trace=True)
    finished = run(build_engine(model), [request])[0]
    with torch.inference_mode():
        logits = build_model("llama", "eager")(torch.tensor([[9, 8, 7, 6, *finished.token_ids]])).logits[0, 3:]
    expected = logits.softmax(-1)[:, 2][: len(finished.trace.probs)]
    assert torch.allclose(torch.tensor(finished.trace.probs), expected, atol=1e-6)
    assert finished.trace.prob_max == pytest.approx(expected.max().item(), abs=1e-6)
    assert finished.trace.step_max == expected.argmax().item()
    best = logits[finished.trace.step_max]
    assert finished.trace.rank_max == (best > best[2]).sum().item()


@pytest.mark.parametrize("prepare", [lambda model: None, speed_up], ids=["modules", "blocks"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_whose_scores_are_no_numbers_fails_alone(value, prepare):
    """Where it left its keys and values, or stands beside a shorter row, a NaN passes the mask of attention."""
    model = build_model("llama")
    prepare(model)
    model.get_input_embeddings().weight.data[100, 3] = value
    spoilt = [
        Request(key=key, prompt_token_ids=[100, *[5 + key] * length], max_new_tokens=80)
        for key, length in ((100, 3), (101, 40), (102, 90))
    ]
    requests = [
        Request(key=key, prompt_token_ids=[5 + key] * length, max_new_tokens=40)
        for key, length in enumerate((2, 17, 35, 60, 90, 5))
    ]
    alone = run(build_engine(build_model("llama")), requests)
    engine = build_engine(model, num_pages=22)
    together = run(engine, [spoilt[0], *requests[:3], *spoilt[1:], *requests[3:]])
    for request in spoilt:
        assert together[request.key].verdict.finish_reason is FinishReason.ERROR
        assert together[request.key].verdict.error.startswith(NOT_NUMBERS)
        assert together[request.key].text == ""
    for request in requests:
        assert together[request.key].verdict == alone[request.key].verdict
        assert together[request.key].token_ids == alone[request.key].token_ids


def test_a_score_of_minus_infinity_is_no_fault():
    model = build_model("llama")
    model.lm_head.weight.data[50] = 0.0
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(384))
    model.lm_head.bias.data[50] = -torch.inf
    finished = run(build_engine(model), make_requests(3))
    assert all(item.verdict.error is None for item in finished.values())


def test_a_context_wider_than_the_cache_takes_no_room():
    """A config that names 10 million positions made a table for all of them for each row: out of memory."""
    engine = build_engine(build_model("llama"), context=10**12, num_pages=8)
    assert engine.capacity.context == 8 * 16
    (done,) = run(engine, [Request(1, tuple(range(5, 105)), 100)]).values()
    assert len(done.token_ids) == 28 or done.verdict.finish_reason is FinishReason.EOS


def test_a_short_row_is_not_padded_with_the_page_of_a_failed_one():
    model = build_model("llama")
    model.get_input_embeddings().weight.data[100, 3] = torch.nan
    requests = [Request(key=key, prompt_token_ids=[5 + key] * n, max_new_tokens=8) for key, n in ((1, 3), (2, 20))]
    engine = build_engine(model, max_rows=2)
    failed = run(engine, [Request(key=0, prompt_token_ids=[100] * 20, max_new_tokens=8)])[0]
    assert failed.verdict.finish_reason is FinishReason.ERROR
    assert run(engine, requests) == run(build_engine(build_model("llama"), max_rows=2), requests)


def test_a_sampled_answer_in_two_attempts_is_the_answer_in_one():
    """A continued row once could repeat the random numbers of its first attempt, or count its answer as prompt."""
    model, sampling, prompt = build_model("llama"), Sampling(temperature=1.0, seed=3), [5, 9, 40, 77]

    def answer(tokens, before=()):
        request = Request(
            key=0,
            prompt_token_ids=prompt,
            answer_token_ids=before,
            max_new_tokens=tokens,
            stream=4,
            sampling=sampling,
        )
        return run(build_engine(model), [request])[0]

    whole, first = answer(24), answer(12)
    second = answer(12, first.token_ids)
    assert len(whole.token_ids) == 24
    assert second.token_ids == whole.token_ids
    assert (second.prompt_tokens, second.completion_tokens) == (len(prompt), 12)


@pytest.mark.parametrize(
    ("pages", "most", "groups"),
    [
        ([1, 2, 2], 100, [(0, 3)]),
        ([1, 2, 3], 100, [(0, 2), (2, 3)]),  # 3 is more than 1.5 times 1, and one
        ([4, 4, 4, 4], 8, [(0, 2), (2, 4)]),  # as many as fit, padded to the longest
        ([4, 4, 4, 4], 7, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ([2, 3, 4], 9, [(0, 2), (2, 3)]),
        ([9], 1, [(0, 1)]),
    ],
)
def test_rows_are_grouped_by_like_lengths_and_as_many_as_fit(pages, most, groups):
    assert list(_groups(pages, most)) == groups
