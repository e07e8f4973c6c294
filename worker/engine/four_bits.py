"""What we take of bitsandbytes, imported without torch's compiler, which it would load for four functions.

Those are its optimizers and its slow ways for devices without kernels; `torch.compile` loads the whole compiler
even if none of them is ever called. Each is compiled at its first call instead, with the same options.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

_compile = torch.compile


def _at_first_call(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:  # noqa: ANN401
    """Stand for `torch.compile`: return what compiles the function when it is first called."""
    if function is None:
        return functools.partial(_at_first_call, **options)
    compiled = functools.cache(functools.partial(_compile, function, **options))
    return functools.wraps(function)(lambda *values, **named: compiled()(*values, **named))


torch.compile = _at_first_call  # type: ignore[assignment]
try:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit, Params4bit
finally:
    torch.compile = _compile

__all__ = ["Linear4bit", "Params4bit", "dequantize_4bit"]
