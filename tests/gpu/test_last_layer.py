"""The last layer for the tokens alone that are wanted, by the kernels; `TRITON_INTERPRET=1` runs it on a CPU."""

import copy
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.kernels import decode_attention
from endmark.worker.engine.cuda.runner import CudaRunner
from tests.engine.conftest import CONFIGS
from tests.engine.test_last_layer import assert_alike, results

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("rotary_stays"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


SIZES = {"num_pages": 8, "page_size": 16, "max_rows": 4, "prefill_tokens": 64, "piece_tokens": 32, "context": 48}


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """The interpreter takes milliseconds for each program: no row's keys are cut for it."""
    if INTERPRETED:
        monkeypatch.setattr(decode_attention, "_PROGRAMS", 1)


def build(name, layers=1, dtype=torch.float32, **options):
    """A model, of so many layers where kernels are interpreted, and its runner."""
    torch.manual_seed(7)
    config = copy.deepcopy(CONFIGS[name])
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 64
    if INTERPRETED:
        config.num_hidden_layers, config.vocab_size = layers, 64
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().to(DEVICE)
    return model, CudaRunner(model, {2}, **{**SIZES, **options})


@pytest.mark.parametrize("name", ["gemma2"] if INTERPRETED else list(CONFIGS))
def test_scores_are_those_of_the_whole_layer(name):
    _, runner = build(name)
    assert runner._narrows
    got = results(runner)
    runner._narrows = False
    for own, want in zip(got, results(runner), strict=True):
        assert_alike(own, want, 1e-3)
