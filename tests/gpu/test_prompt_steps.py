"""Captured steps with prompts give what steps launched whole give; `TRITON_INTERPRET=1` runs it on a CPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda import prompt_steps
from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.plan import Copied, DecodePlan, StepPlan
from tests.engine.conftest import CONFIGS
from tests.engine.test_last_layer import assert_alike, results, row
from tests.gpu.test_last_layer import INTERPRETED, SIZES, _few_programs, build  # noqa: F401 - a fixture of all tests

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("rotary_stays"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
ROUNDS = 1 if INTERPRETED else 3  # in the last of them all that comes again has been captured


@pytest.fixture(autouse=True)
def _captured_at_once(monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(prompt_steps, "_BEFORE_RECORDING", 0)


def all_results(runner):
    """Those of the plans of another test, and of a row whose first tokens are copied from a page of theirs."""
    copying = row(3, [9, 40, 7, 31, 8, 11], [5], cached=4, copied=Copied(2, 5, 4))
    return [*results(runner), runner.read(runner.launch(StepPlan(prefill=[copying])))]


@pytest.mark.parametrize("name", ["llama"] if INTERPRETED else list(CONFIGS))
def test_scores_are_those_of_steps_that_are_launched_whole(name):
    """Those of a second runner of the network too, whose layers the first one has changed already."""
    model, runner = build(name, layers=2)
    runners = [runner] if INTERPRETED else [runner, CudaRunner(model, {2}, **SIZES)]
    got = []
    for one in runners:
        got += [all_results(one) for _ in range(ROUNDS)]
        steps = one._prompts._steps
        assert {size.tokens for size in steps} >= {16, 32}
        assert {size.copies for size in steps} == {False, True}
        assert sum(step.replay is not None for step in steps.values()) >= 2
    runner._prompts = None
    want = all_results(runner)
    for some in got:
        for own, other in zip(some, want, strict=True):
            assert_alike(own, other, 1e-3)


@pytest.mark.skipif(INTERPRETED, reason="keys are gathered on Hopper")
def test_rows_whose_keys_are_gathered_give_the_same_bits():
    """Pieces of 1,000 tokens beside a running row, in a pass padded by some; what is launched is padded too."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("keys are gathered on Hopper")
    sizes = {"num_pages": 300, "prefill_tokens": 4096, "piece_tokens": 2048, "context": 2048}
    _, runner = build("llama", dtype=torch.bfloat16, **sizes)
    text = [3 + at % 50 for at in range(1301)]
    plans = [
        StepPlan(prefill=[row(0, text[:5], [0])]),
        StepPlan(
            DecodePlan([0], [5], [1], [1]),
            [row(1, text, range(1, 90), left=301), row(2, text[:700], range(90, 140))],
        ),
        StepPlan(DecodePlan([0], [6], [2], [2]), [row(1, text, range(1, 90), cached=1000)]),
    ]

    def probabilities():
        return [runner.read(runner.launch(plan)).eos_probs for plan in plans]

    launched, _, captured = (probabilities() for _ in range(3))
    assert any(size.gathers and step.replay for size, step in runner._prompts._steps.items())
    assert captured == launched
    runner._prompts = None
    for own, want in zip(captured, probabilities(), strict=True):
        assert own == pytest.approx(want, rel=0.1)


def test_a_size_is_captured_once_the_card_has_waited_for_its_launch(monkeypatch):
    """Captures stop the card: beside a quick host, which was ahead anyway, they cost runs of labels 4 to 9 %."""
    _, runner = build("llama", layers=1)
    monkeypatch.setattr(prompt_steps, "_BEFORE_RECORDING", 1)
    prompts = runner._prompts

    def captured():
        return sum(step.replay is not None for step in prompts._steps.values())

    at_load = captured()
    monkeypatch.setattr(prompts._ends, "reached", lambda: False)
    for _ in range(3):
        results(runner)
    assert captured() == at_load
    monkeypatch.setattr(prompts._ends, "reached", lambda: True)
    for _ in range(2):
        results(runner)
    assert captured() > at_load


def test_sizes_beyond_those_that_have_tables_are_launched_whole(monkeypatch):
    """Passes come in hundreds of sizes, and each had kept tables on the card."""
    _, runner = build("llama", layers=2)
    want = results(runner)
    runner._prompts._steps.clear()
    monkeypatch.setattr(prompt_steps, "_MOST_SIZES", 1)
    for own, other in zip(results(runner), want, strict=True):
        assert_alike(own, other, 1e-3)
    assert len(runner._prompts._steps) == 1
