"""A draw for each row of a batch that another engine computes: what the two ways of drawing have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from endmark.worker.engine.plan import PrefillRow


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step in the order of its logits; arrays are (R,) int32.

    A row that draws nothing, as its prompt is not computed to its end, has the slot behind the last.
    """

    slots: NDArray[np.int32]
    lengths: NDArray[np.int32]  # tokens of the row before its last one: the place of that one
    steps: NDArray[np.int32]
    positions: NDArray[np.int32]
    epochs: NDArray[np.int32]
    calls: NDArray[np.int32]  # a `steering.Call` for each
    masks: Sequence[tuple[int, NDArray[np.int32]]]  # slots, and which tokens may follow there
    asked: Mapping[int, Sequence[int]]  # tokens whose log probabilities are told, by the row's index
    logprobs: bool  # whether any row is told its tokens' log probabilities, and the best
    tokens: Callable[[int], Sequence[int]]  # all tokens of a row, by its index


class Drawing(Protocol):
    """Keeps what each slot needs between steps, and draws."""

    def admit(self, rows: Sequence[tuple[PrefillRow, Sequence[int]]]) -> None:
        """Keep what rows bring to their slots, each with all its tokens."""

    def draw(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return what was drawn, (RESULT.width, R) int32 on the device of the logits (R, V) fp32."""

    def leave(self, logits: Tensor, drawn: Tensor, batch: Batch, entries: Tensor) -> None:
        """Make each row's token the best of its scores, and write its result where it stands among `entries`.

        Args:
            logits: (R, V) fp32, written.
            drawn: (RESULT.width, R) int32, what `draw` has returned last.
            batch: of the rows.
            entries: (slots + 1, RING, ENTRY.width) int32, written.
        """
