"""How long a row may become before its rotary factors depend on the rows beside it.

transformers chooses the factors of longrope and of dynamic scaling by the longest row of a batch, so a short row's
greedy answer would change when a long one shares its batch. Up to some length all rows have the same factors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_SHORT = 2  # tokens of the row that is compared

Call = Callable[[Tensor], Any]  # (1, T) positions -> what a rotary embedding gives for them


@torch.inference_mode()
def rotary_limit(calls: list[Call], context: int, device: torch.device) -> int:
    """Return the longest row that changes no shorter row's factors, at most `context`.

    Args:
        calls: of `recorded_rotary`.
        context: tokens that a row may have.
        device: of the network.
    """
    low, high = min(_SHORT, context), context
    if all(_independent(call, high, device) for call in calls):
        return high
    while low < high:  # the longest length that changes nothing is from low to high
        middle = (low + high + 1) // 2
        if all(_independent(call, middle, device) for call in calls):
            low = middle
        else:
            high = middle - 1
    return low


def _independent(call: Call, length: int, device: torch.device) -> bool:
    """Whether the first tokens' factors are the same beside a row of that length as alone."""
    short = torch.arange(_SHORT, device=device).unsqueeze(0)
    alone = _tensors(call(short))
    beside = _tensors(call(torch.cat([short, torch.full_like(short[:, :1], length - 1)], 1)))
    call(short)  # what dynamic scaling has grown is taken back
    return all(torch.equal(one, other[:, :_SHORT]) for one, other in zip(alone, beside, strict=True))


def _tensors(given: Any) -> list[Tensor]:  # noqa: ANN401
    """Return the cosines and sines, each (1, T, size)."""
    return [item.clone() for item in ((given,) if isinstance(given, Tensor) else given)]


@contextmanager
def recorded_rotary(network: nn.Module) -> Iterator[list[Call]]:
    """Record how the network calls its rotary embeddings, to repeat it at other positions."""
    calls: list[Call] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        at = next((index for index, item in enumerate(arguments) if _is_positions(item)), None)
        key = next((name for name, item in named.items() if _is_positions(item)), None)

        def repeat(positions: Tensor) -> Any:  # noqa: ANN401
            if key is not None:
                return module(*arguments, **{**named, key: positions})
            assert at is not None
            return module(*arguments[:at], positions, *arguments[at + 1 :], **named)

        if at is not None or key is not None:
            calls.append(repeat)

    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for module in network.modules()
        if any("inv_freq" in name for name, _ in module.named_buffers(recurse=False))
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _is_positions(item: object) -> bool:
    """Whether an argument holds positions: integers, a row of them."""
    return isinstance(item, Tensor) and item.dim() == 2 and not item.is_floating_point()
