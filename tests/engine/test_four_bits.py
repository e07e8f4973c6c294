"""bitsandbytes comes without torch's compiler, and what it has compiled is compiled when it is called."""

import subprocess
import sys

import pytest
import torch

from endmark.worker.engine.four_bits import _at_first_call

pytestmark = pytest.mark.engine


def test_a_worker_loads_no_compiler():
    """Every worker spent a fifth of its start on loading a compiler that it never used."""
    code = (
        "import sys, endmark.worker.models.loader, torch, bitsandbytes; print(torch.compile.__module__, "
        "*(name in sys.modules for name in ('bitsandbytes.backends.default.ops', 'torch._inductor.compile_fx')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["torch", "True", "False"]


@pytest.mark.parametrize("options", [{}, {"dynamic": False}])
def test_a_function_is_compiled_once_when_it_is_called(monkeypatch, options):
    calls = []

    def compiled(function, **given):
        calls.append((function.__name__, given))
        return torch.compiler.disable(function)

    monkeypatch.setattr("endmark.worker.engine.four_bits._compile", compiled)

    def double(values, *, times=2):
        """Of a tensor."""
        return values * times

    deferred = _at_first_call(**options)(double) if options else _at_first_call(double)
    assert (deferred.__name__, deferred.__doc__, calls) == ("double", "Of a tensor.", [])
    assert deferred(torch.tensor([1, 2])).tolist() == [2, 4]
    assert deferred(torch.tensor([1, 2]), times=3).tolist() == [3, 6]
    assert calls == [("double", options)]
