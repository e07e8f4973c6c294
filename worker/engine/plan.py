"""The device seam: a plan of integers goes in, token ids and a few floats for each row come out.

Scheduler, strategies and verdicts know only this; `worker.engine.contract.Runner` is who takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.logprobs import TokenScores
from endmark.worker.engine.steering import Insertion, Phase, RowSteering


class Copied(NamedTuple):
    """The front of a page that another row has computed, or computes in the same step before: it is copied."""

    source: int
    page: int  # of the row, that it is copied to
    tokens: int


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """A row whose tokens are to be computed, all or the next of them; after the last its next token is sampled."""

    slot: int
    token_ids: Sequence[int]  # all of the row so far: prompt, then what has been generated
    cached: int  # tokens at the front whose keys and values stand in `pages` already, or are `copied` there
    pages: Sequence[int]  # the row's page table, enough for `token_ids`
    step: int  # tokens that this attempt has generated: the n of the score numbers
    position: int  # tokens of the answer so far, those of earlier attempts included: keys the random numbers
    sampling: Sampling
    numbers: ScoreNumbers
    stream: int
    sentence_state: int = 0  # of jobs.landing, after `token_ids`
    bad_words: Sequence[Sequence[int]] = ()  # as of `Request`
    prompt: int = 0  # tokens at the front of `token_ids` that are not the answer's
    insertion: Insertion | None = None  # that may still come, or goes on
    phase: Phase | None = None
    phase_open: bool = False
    phase_undecided: bool = False  # whether the next token says if it is open
    matched: int = 0  # tokens of the phase's end that `token_ids` end with
    origin: int = 0  # the attempt's token from which the score numbers count
    mask: NDArray[np.int32] | None = None  # of the tokens that may follow, see `TokenMask`
    asked: Sequence[int] = ()  # tokens whose log probabilities after `token_ids` are told
    asked_before: Sequence[Sequence[int]] = ()  # the same behind the last tokens but one, all of the last piece
    logprobs: int | None = None  # best tokens of each step that are told; None: not its own either
    copied: Copied | None = None  # the last of the tokens that are cached
    left: int = 0  # tokens at the end that later steps compute; nothing is sampled before they have

    @property
    def end(self) -> int:
        """Where the tokens end that this step computes; they begin at `cached`."""
        return len(self.token_ids) - self.left


def steering_of(row: PrefillRow) -> RowSteering:
    """Return what steers a row that begins, for devices that run on the host."""
    return RowSteering(
        row.phase,
        is_open=row.phase_open,
        insertion=row.insertion,
        is_undecided=row.phase_undecided,
        matched=row.matched,
    )


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """One more token for each of the running rows; all lists run over the same rows."""

    slots: Sequence[int]
    lengths: Sequence[int]  # tokens of the row before this step's input token is written: its position
    steps: Sequence[int]  # as `PrefillRow.step`
    positions: Sequence[int]  # as `PrefillRow.position`
    new_pages: Sequence[tuple[int, int, int]] = ()  # (slot, index in its page table, page)
    masks: Sequence[tuple[int, NDArray[np.int32]]] = ()  # slots, and which tokens may follow there
    late: Sequence[int] = ()  # slots whose masks are given to `draw`, as they depend on tokens that are in flight
    calls: Sequence[int] = ()  # a `Call` for each row, where any row has one


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass: a token for each running row, and beside them the prompts of others, or pieces of prompts.

    Tokens are sampled for the rows of `decode`, then for those of `prefill` that have none left, in their order.
    """

    decode: DecodePlan = field(default_factory=lambda: DecodePlan([], [], [], []))
    prefill: Sequence[PrefillRow] = ()

    @property
    def ending(self) -> list[PrefillRow]:
        """The rows of `prefill` that a token is sampled for."""
        return [row for row in self.prefill if not row.left]

    @property
    def slots(self) -> list[int]:
        """The slots of all rows that a token is sampled for."""
        return [*self.decode.slots, *(row.slot for row in self.ending)]

    @property
    def steps(self) -> list[int]:
        """Their numbers of tokens, as `PrefillRow.step`."""
        return [*self.decode.steps, *(row.step for row in self.ending)]

    @property
    def positions(self) -> list[int]:
        """Their places in the random numbers, as `PrefillRow.position`."""
        return [*self.decode.positions, *(row.position for row in self.ending)]

    @property
    def lengths(self) -> list[int]:
        """Their tokens before the last one that is computed, as `DecodePlan.lengths`."""
        return [*self.decode.lengths, *(row.end - 1 for row in self.ending)]

    @property
    def masks(self) -> list[tuple[int, NDArray[np.int32]]]:
        """Slots, and which tokens may follow there in this step."""
        return [*self.decode.masks, *((row.slot, row.mask) for row in self.ending if row.mask is not None)]

    @property
    def asked(self) -> dict[int, Sequence[int]]:
        """The tokens that rows ask for, by the row's index among those sampled for."""
        before = len(self.decode.slots)
        return {before + index: row.asked for index, row in enumerate(self.ending) if row.asked}


@dataclass(slots=True)
class StepResult:
    """What one step sampled, in the order of the plan's rows."""

    token_ids: list[int]
    eos_probs: list[float]  # EOS mass in the softmax of the raw fp32 logits; NaN where those are no numbers
    eos_ranks: list[int]  # tokens that score above the best EOS id
    flags: list[int]  # NATURAL | FORCED | HIDDEN | INSERTED
    # by index of the rows that ask: log probabilities in the softmax of the raw fp32 logits
    asked: dict[int, tuple[float, ...]] = field(default_factory=dict)
    asked_before: dict[int, tuple[tuple[float, ...], ...]] = field(default_factory=dict)  # as of `PrefillRow`
    told: dict[int, TokenScores] = field(default_factory=dict)  # by index of the rows with `logprobs`


@dataclass(frozen=True, slots=True)
class Ticket:
    """A launched step. `overlaps` of the runner says whether it may still be running."""

    rows: int
    payload: object = field(default=None, repr=False)
