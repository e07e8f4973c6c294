"""A forward pass in two parts: all layers as far as the last one's keys, then that layer for the tokens wanted.

The first part is the same for all passes of one size, so it can be captured; what differs from pass to pass (how
many tokens are wanted, and what is drawn from them) is in the second, which is small. Nothing is known of the
model but that its layers run one after the other: in the second part all of them but the last hand on what they
are given, and the last one takes what the first part has kept. Whether that gives the same scores is tried.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from endmark.worker.engine.last_layer import CLOSE, Narrowing, Step

log = logging.getLogger(__name__)


class PartStep(Step, Protocol):
    """A step as its layers are given it."""

    @property
    def room(self) -> Tensor | None:
        """Where the first part keeps what the last layer is given, (1, T, width); None: it is not to be kept."""

    @property
    def kept(self) -> Tensor | None:
        """What was kept of the wanted tokens, (1, R, width), for the second part; None: this is no second part."""


class _Passing:
    """A layer's forward that does nothing in a second part."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain

    def __call__(self, hidden_states: Tensor, *args: object, paged: PartStep, **named: object) -> Any:  # noqa: ANN401
        if paged.kept is not None:
            return hidden_states
        return self.plain(hidden_states, *args, paged=paged, **named)


class _Keeping(Narrowing):
    """The last layer's forward: keeps what it is given in a first part, and takes it in a second."""

    def __call__(self, hidden_states: Tensor, *args: object, paged: PartStep, **named: object) -> Any:  # type: ignore[override]  # noqa: ANN401
        if paged.kept is not None:
            return self.plain(paged.kept, *args, paged=paged, **named)
        if paged.room is not None:
            if paged.room.dtype != hidden_states.dtype:
                raise TypeError("is of another type between its layers")
            paged.room.copy_(hidden_states)
        return super().__call__(hidden_states, *args, paged=paged, **named)


def part_layers(network: PreTrainedModel, scores: Callable[[bool], Tensor]) -> bool:
    """Let the network's layers heed which part of a pass is run, if the scores stay what they were.

    Args:
        network: changed in place; its last layer narrows (`narrow_last_layer`).
        scores: runs a row of a few tokens; returns the scores of some, computed in two parts or at once.

    Returns:
        Whether passes may be run in two parts. If not, the network is as it was.
    """
    layers = list(network.get_decoder().layers)
    before = [layer.forward for layer in layers]
    want = scores(False).float()
    for layer in layers[:-1]:
        plain = layer.forward
        layer.forward = plain if isinstance(plain, _Passing) else _Passing(plain)  # of a runner before
    layers[-1].forward = _Keeping(layers[-1].forward.plain)
    try:
        got = scores(True).float()
        if got.shape == want.shape and bool((got - want).norm() <= CLOSE * want.norm()):
            return True
        reason = "gives other scores"
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = str(error)
    for layer, forward in zip(layers, before, strict=True):
        layer.forward = forward
    log.info("steps with prompts are launched kernel by kernel: a pass in two parts %s", reason)
    return False
