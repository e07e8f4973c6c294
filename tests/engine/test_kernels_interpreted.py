"""The Triton kernels on the CPU, by Triton's interpreter, against the same few lines of PyTorch as on a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux alone"),
]
ROOT = Path(__file__).parents[2]


def interpret(files, least):
    """Run tests in a process of its own: whether kernels are interpreted is settled when they are imported."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *files],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout, run.stdout[-2000:]
    assert re.search(rf"[.]{{{least},}}", run.stdout), "most tests did not run"


def test_every_kernel_gives_the_numbers_of_its_oracle():
    names = ("kernels", "sampling", "adjusting", "steering", "packed", "vllm_drawing")
    interpret([f"tests/gpu/test_{name}.py" for name in names], least=50)


def test_fused_layers_give_the_numbers_of_the_model_they_stand_for():
    names = ("fusion", "fp8", "scoring")
    interpret([f"tests/gpu/test_{name}.py" for name in names], least=15)


def test_the_last_layer_is_the_same_for_the_tokens_that_are_wanted():
    interpret(["tests/gpu/test_last_layer.py"], least=1)


@pytest.mark.slow
def test_the_cuda_engine_passes_the_contract_of_all_engines():
    """The whole path of a card, its scheduler, slots, staging and kernels, on a tiny model."""
    interpret(["tests/gpu/test_contract_cuda.py"], least=9)
