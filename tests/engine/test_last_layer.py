"""The last layer for the tokens alone that are wanted: the same scores, from a fraction of the work."""

import pytest
import torch

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cpu.blocks import speed_up
from endmark.worker.engine.plain_runner import PlainRunner
from endmark.worker.engine.plan import DecodePlan, PrefillRow, StepPlan
from tests.engine.conftest import build_model

pytestmark = pytest.mark.engine


def row(slot, tokens, pages, cached=0, **options):
    return PrefillRow(slot, tokens, cached, pages, 0, 0, Sampling(), ScoreNumbers(), slot, **options)


def plans():
    """A piece of a prompt beside a whole one that asks, then its end beside a running row, then both running."""
    long, short = [5 + 2 * at for at in range(21)], [9, 40, 7, 31, 57]
    asking = {"asked": [3, 4], "asked_before": [[5, 6], [7]]}
    yield StepPlan(prefill=[row(0, long, [0, 1], left=9), row(1, short, [2], **asking)])
    running = DecodePlan([1], [5], [1], [1])
    yield StepPlan(running, [row(0, long, [0, 1], cached=12)])
    yield StepPlan(DecodePlan([0, 1], [21, 6], [1, 2], [1, 2]))
    yield StepPlan(prefill=[row(2, long, [3, 4], left=9)])  # nothing is drawn
    yield StepPlan(prefill=[row(2, long, [3, 4], cached=12), row(3, [8], [5])])


def results(runner):
    return [runner.read(runner.launch(plan)) for plan in plans()]


def assert_alike(got, want, bound):
    assert got.token_ids == want.token_ids
    assert got.eos_probs == pytest.approx(want.eos_probs, rel=bound)
    for name in ("asked", "asked_before"):
        own, others = getattr(got, name), getattr(want, name)
        assert own.keys() == others.keys()
        for key in others:
            assert torch.allclose(torch.tensor(flat(own[key])), torch.tensor(flat(others[key])), atol=bound)


def flat(values):
    return [number for value in values for number in (value if isinstance(value, tuple) else (value,))]


def build_runner(model):
    return PlainRunner(model, {2}, num_pages=8, page_size=16, max_rows=4, prefill_tokens=64, context=48)


@pytest.mark.parametrize("prepare", [lambda model: None, speed_up], ids=["modules", "blocks"])
def test_scores_are_those_of_the_whole_layer(architecture, prepare):
    model = build_model(architecture)
    prepare(model)
    narrow, whole = build_runner(model), build_runner(model)
    assert narrow._narrows
    whole._narrows = False
    for got, want in zip(results(narrow), results(whole), strict=True):
        assert_alike(got, want, 1e-4)


def test_the_last_layer_works_on_what_is_wanted_alone():
    model = build_model("llama")
    runner, seen = build_runner(model), {0: [], 1: []}
    for index, layer in enumerate(model.get_decoder().layers):
        layer.mlp.register_forward_pre_hook(lambda _, given, own=seen[index]: own.append(given[0].shape[1]))
    results(runner)
    assert seen[0] == [17, 10, 2, 12, 10]
    assert seen[1] == [3, 2, 2, 2]  # the step in which nothing is drawn ends with keys and values


def test_a_layer_that_mixes_tokens_elsewhere_stays_whole():
    model = build_model("llama")
    mlp = model.get_decoder().layers[-1].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + 3 * x.mean(1, keepdim=True)
    before = model.get_decoder().layers[-1].forward
    runner = build_runner(model)
    assert not runner._narrows
    assert model.get_decoder().layers[-1].forward == before
    assert len(results(runner)) == 5


def test_a_network_serves_two_runners():
    """The second one wrapped the first one's layer again, whose step then had no tokens that were wanted."""
    model = build_model("llama")
    first, second = build_runner(model), build_runner(model)
    for got, want in zip(results(first), results(second), strict=True):
        assert_alike(got, want, 1e-4)
