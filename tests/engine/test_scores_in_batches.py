"""Rows with different strategies share one batch on a real, tiny model, and none of them sees the others."""

import random

import pytest
import torch

from endmark.jobs.landing import tabulate
from endmark.jobs.sampling import Sampling
from endmark.jobs.sentences import ends_sentence
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import EosSource, FinishReason
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.plain_runner import PlainRunner
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from tests.engine.conftest import build_model

pytestmark = pytest.mark.engine

# Every ninth token ends a sentence; some tokens hold several characters.
TOKENS = [b"", b"", b""] + [
    b". " if index % 9 == 0 else bytes((97 + index % 26,)) * (1 + index % 3) for index in range(3, 384)
]
VOCABULARY = Vocabulary(TOKENS)
STRATEGIES = [
    "baseline",
    "eos-reward:start=0.3",
    "eos-reward-published",
    "soft-landing:start=0.2,firm=0.6",
    "exp-decay:start=0.1,factor=1.2",
    "no-loops:times=2,tokens=16",
    "stop:text=ab;concise",
    "soft-landing:margin=5;no-loops;stop:tokens=30-31",
]
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.8, top_k=30),
    Sampling(temperature=1.2, top_p=0.9),
    Sampling(temperature=1.0),
]


def build_engine(model, max_rows=64):
    table = torch.tensor([list(row) for row in tabulate(TOKENS)], dtype=torch.uint8)
    runner = PlainRunner(
        model,
        {2, 5},
        num_pages=400,
        page_size=16,
        max_rows=max_rows,
        prefill_tokens=512,
        context=200,
        sentence_table=table,
    )
    return Engine(runner, VOCABULARY, {2, 5})


def run(engine, requests):
    for request in requests:
        engine.add(request)
    done = {}
    while engine.has_work:
        done.update((finished.key, finished) for finished in engine.step())
    return done


def make_requests(count, strategies=STRATEGIES, budget=(20, 60)):
    rng = random.Random(11)
    return [
        Request(
            key=key,
            prompt_token_ids=[rng.randrange(6, 384) for _ in range(rng.randrange(1, 30))],
            max_new_tokens=rng.randrange(*budget),
            sampling=Sampling(**{**_values(rng.choice(SAMPLINGS)), "seed": rng.randrange(100)}),
            strategies=build_strategies([strategies[key % len(strategies)]]),
            stream=key,
        )
        for key in range(count)
    ]


def _values(sampling):
    return {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")}


@pytest.fixture(scope="module")
def model():
    return build_model("llama")


def test_a_row_is_the_same_alone_and_among_64_others(model):
    """Each strategy under each kind of sampling, alone, against the batch of all of them."""
    requests = make_requests(65)
    together = run(build_engine(model, max_rows=65), requests)
    for request in requests[:16]:
        alone = run(build_engine(model, max_rows=1), [request])[request.key]
        assert alone.text == together[request.key].text
        assert alone.token_ids == together[request.key].token_ids
        assert alone.verdict == together[request.key].verdict
    assert len({finished.verdict.finish_reason for finished in together.values()}) >= 3


def test_eos_reward_ends_every_row_inside_its_budget(model):
    done = run(build_engine(model), make_requests(40, ["eos-reward"], (1, 40)))
    assert {finished.verdict.finish_reason for finished in done.values()} == {FinishReason.EOS}
    sources = {finished.verdict.eos_source for finished in done.values()}
    assert EosSource.BOOSTED in sources or EosSource.FORCED in sources


def test_what_soft_landing_raises_ends_a_sentence(model):
    done = run(build_engine(model), make_requests(64, ["soft-landing"], (40, 80)))
    boosted = [item for item in done.values() if item.verdict.eos_source is EosSource.BOOSTED]
    assert len(boosted) > 20
    assert all(ends_sentence(item.text) for item in boosted)
    assert not any(item.verdict.eos_source is EosSource.FORCED for item in done.values())


def test_a_boosted_end_would_not_have_come_by_itself(model):
    """The same row with no strategy, the same seed and the same tokens so far does not end there.

    A raised EOS only takes the place of the token drawn; under top-k and top-p it may also push another one out
    of the kept set, so there the rows may part before the end.
    """
    requests = make_requests(32, ["eos-reward:start=0.2"], (20, 50))
    helped = run(build_engine(model), requests)
    plain = run(build_engine(model), [_without(request) for request in requests])
    seen = set()
    for key, finished in helped.items():
        baseline = plain[key]
        if baseline.token_ids[: len(finished.token_ids)] != finished.token_ids:
            sampling = requests[key].sampling
            assert sampling.top_k > 0 or sampling.top_p < 1
            continue
        ended_there = baseline.verdict.ended_with_eos and len(baseline.token_ids) == len(finished.token_ids)
        assert ended_there == (finished.verdict.eos_source is EosSource.NATURAL)
        seen.add(finished.verdict.eos_source)
    assert EosSource.BOOSTED in seen


def _without(request):
    return Request(
        key=request.key,
        prompt_token_ids=request.prompt_token_ids,
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        stream=request.stream,
    )
