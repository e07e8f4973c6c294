"""The last layer for the tokens alone whose scores are wanted: of the others it needs keys and values, no more.

A step of a long prompt wants the scores of one token. So the last layer runs twice: over all tokens as far as its
attention, which writes their keys and values and goes no further; then over the tokens that are wanted. Nothing is
known of the layer but that it computes each token by itself outside its attention, and that is tried.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol, Self

from torch import Tensor
from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_CLOSE = 2e-2  # of the scores: attention sums in another order, and fp8 may round the other way


class KeysWritten(Exception):
    """Raised by the attention of the last layer: keys and values stand in the cache, and no more is wanted."""


class Step(Protocol):
    """A step as its attention is given it."""

    @property
    def wanted(self) -> Tensor | None:
        """The tokens (R,) int64 that the last layer is for alone; None: it is for all."""

    def writing(self) -> Self:
        """Return the step whose attention only writes, and raises `KeysWritten`."""

    def narrowed(self) -> Self:
        """Return the step of the tokens that are wanted; all is written before."""


def narrow_last_layer(network: PreTrainedModel, scores: Callable[[bool], Tensor]) -> bool:
    """Let the network's last layer heed what a step wants, if the scores stay what they were.

    Args:
        network: changed in place.
        scores: runs a row of a few tokens; returns the scores of some, with the last layer for them alone or not.

    Returns:
        Whether steps may say what they want. If not, the network is as it was.
    """
    layers = list(getattr(network.get_decoder(), "layers", ()))
    if not layers:
        return False
    last = layers[-1]
    plain = last.forward.plain if isinstance(last.forward, _Narrowing) else last.forward  # of a runner before
    want, last.forward = scores(False).float(), _Narrowing(plain)
    try:
        got = scores(True).float()
        if got.shape == want.shape and bool((got - want).norm() <= _CLOSE * want.norm()):
            return True
        reason = "gives other scores"
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error)
    last.forward = plain
    log.info("the last layer runs for all tokens of prompts: for those alone that are wanted it %s", reason)
    return False


class _Narrowing:
    """A layer's forward that goes on with those tokens alone that its step wants."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain

    def __call__(self, hidden_states: Tensor, *args: object, paged: Step, **named: object) -> Any:  # noqa: ANN401
        """Return what the layer gives for those tokens, or for all where the step says nothing."""
        wanted, plain = paged.wanted, self.plain
        if wanted is None:
            return plain(hidden_states, *args, paged=paged, **named)
        try:
            plain(hidden_states, *args, paged=paged.writing(), **named)
        except KeysWritten:
            if not len(wanted):
                raise  # nothing behind this layer is wanted either

        def of_wanted(value: Any) -> Any:  # noqa: ANN401
            if isinstance(value, tuple):
                return tuple(map(of_wanted, value))
            is_by_token = isinstance(value, Tensor) and value.shape[:2] == hidden_states.shape[:2]
            return value.index_select(1, wanted) if is_by_token else value

        return plain(
            of_wanted(hidden_states),
            *map(of_wanted, args),
            paged=paged.narrowed(),
            **{name: of_wanted(value) for name, value in named.items()},
        )
