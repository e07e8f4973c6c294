"""The contract of an engine, which is all that the rest of Endmark knows of one, and of the runner inside ours.

An engine takes requests and ends them one by one; `tests/engine_contract.py` is the same as a test, which every
engine passes. Two rules hold for all: an attempt's answer depends on its request alone, never on the rows beside
it, and its verdict says only what the engine knows (`EosSource.UNKNOWN` where it cannot tell). A step waits for
the masks of its rows only where they take longer than it computes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.plan import StepPlan, StepResult, Ticket
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.text import Vocabulary


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much an engine holds at once."""

    rows: int  # that run together
    context: int  # tokens of the longest row, prompt and answer
    kv_tokens: int  # tokens of all rows together; 0 where there is no such cache
    adapters: int = 0  # that rows may name in one batch; 0: all have the one that it was loaded with, if any


class EngineNumbers(Protocol):
    """What is counted of an engine; plain numbers, which any thread may read while it runs."""

    @property
    def row_steps(self) -> int:
        """Tokens sampled so far, dropped ones too."""

    @property
    def running(self) -> int:
        """Rows that are being computed."""

    @property
    def waiting(self) -> int:
        """Rows that have been added and do not run yet."""

    @property
    def preemptions(self) -> int:
        """Rows sent back because no page was left."""

    @property
    def pages(self) -> tuple[int, int]:
        """KV pages in use, and in all."""


class InferenceEngine(EngineNumbers, Protocol):
    """An engine: `add`, then `step` for as long as it `has_work`. One thread owns it."""

    vocabulary: Vocabulary  # of the model's tokeniser
    eos_ids: frozenset[int]  # all end tokens
    asks_before: bool  # whether it tells what `Request.asked_before` asks for; else requests have none

    @property
    def capacity(self) -> Capacity:
        """How much it holds; the same for its whole life."""

    @property
    def has_work(self) -> bool:
        """Whether a further step can finish anything."""

    def add(self, request: Request) -> None:
        """Queue an attempt. Its budget ends where the context does. A request that is refused leaves no trace.

        Raises:
            PromptTooLong: the prompt leaves no room for a single new token.
            TokenUnknown: it holds a token that the model has no embedding for.
        """

    def cancel(self, keys: Collection[int]) -> None:
        """Drop the attempts with these keys, which are never returned; unknown and ended ones are passed over."""

    def insert(self, keys: Collection[int]) -> None:
        """Let the insertions of these attempts begin with the next token that is asked for.

        In an open phase only if that has not ended by then. Attempts without an insertion, and those whose
        insertion goes on or was dropped with its phase, are passed over.
        """

    def step(self) -> list[Finished]:
        """Run one step and return the attempts that it ended, each exactly once. Whatever it raises is its end."""


class Runner(Protocol):
    """The model on its device, under our own engine: takes plans of integers, no tensor crosses this seam.

    It keeps, for each slot, the row's page table, sampling settings, score numbers and last token, set with each
    piece of its prompt.
    """

    page_size: int  # tokens a page
    num_pages: int
    max_rows: int  # slots, and the most rows in one step
    prefill_tokens: int  # the most tokens in a step that computes prompts, those of running rows included
    piece_tokens: int  # of them beside a full batch; a step of more rows takes several times as many
    weight_tokens: int  # tokens whose products take as long as reading all weights, which a step does in any case
    refill: int  # slots that should be free before a prefill is worth its launch
    context: int  # the longest row, prompt and answer, that the model can hold
    overlaps: bool  # whether `launch` returns before the step has run

    def launch(self, plan: StepPlan) -> Ticket:
        """Start the step; of one with late masks all but the draw."""

    def read(self, ticket: Ticket) -> StepResult:
        """Wait for the step and return what it sampled; each ticket is read once, in order."""


@runtime_checkable
class LateDraws(Protocol):
    """What a runner that `overlaps` has besides."""

    def draw(self, ticket: Ticket, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Draw the tokens of a step with late masks, which has been launched last.

        Args:
            ticket: of the step.
            masks: slots, and which tokens may follow there; what is drawn for late slots without one is of no use.
        """


@runtime_checkable
class MaskMemory(Protocol):
    """What a runner has besides whose device reads masks from memory of a kind of its own."""

    def mask_memory(self, count: int) -> NDArray[np.int32]:
        """Return room for so many 32-bit words, of which masks may be views, each behind those before it."""
