"""What may steer a row beside its strategies' numbers: tokens put into it, and a first phase with ends of its own.

Both are settled when the row is given its slot and then run on the device alone, no step of the host in between.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from endmark.jobs.strategies import ScoreNumbers
from endmark.jobs.vocabulary import EosSource
from endmark.worker.engine.flags import FORCED, HIDDEN, INSERTED, NATURAL

MOST_INSERTED = 64  # tokens of one insertion
MOST_PHASE_ENDS = 4  # ids that end a phase
NEVER = 2**30  # the step of an insertion that nothing has called for
OPENED_LATE = -1  # no token: a phase that opens with several, and is begun by the host behind them


@dataclass(frozen=True, slots=True)
class Insertion:
    """Tokens that are put into an answer one after the other, whatever the model would choose.

    Raises:
        ValueError: there are none, or more than `MOST_INSERTED`.
    """

    token_ids: tuple[int, ...]
    at: int = NEVER  # the attempt's token, from 0, that is the first of them

    def __post_init__(self) -> None:
        if not 0 < len(self.token_ids) <= MOST_INSERTED:
            raise ValueError(f"{len(self.token_ids)} tokens cannot be inserted: from 1 to {MOST_INSERTED} can")

    def from_mark(self, phase: "Phase", step: int) -> "Insertion":
        """Return it as it goes on behind a first token of the phase's end that has come at this step."""
        return replace(self, at=step - len(self.token_ids) + phase.length)

    def covers(self, step: int) -> bool:
        """Whether the attempt's token at this step is one of them."""
        return self.at <= step < self.at + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Phase:
    """The first part of an answer, such as a thought, which tokens of its own end; the row then goes on.

    While it is open `numbers` act on its end ids as the strategies' numbers do on EOS, which act behind it: their
    steps count from the attempt's begin all the same, unless it `restarts` them. An insertion that has not begun
    when it ends, or when it is known not to begin, is dropped.

    Its end may take several tokens, the `mark`: then the row's insertion ends with them, and the one end id is the
    first. Where that comes since the numbers have raised it, the others are put in; where the model says it by
    itself, the phase ends once all have come.

    Raises:
        ValueError: there are no end ids, or more than `MOST_PHASE_ENDS`; or the mark does not begin with them.
    """

    end_ids: tuple[int, ...]
    numbers: ScoreNumbers = field(default_factory=ScoreNumbers)
    eos_inserts: bool = False  # whether the row's insertion takes the place of an EOS inside the phase
    opens_with: int | None = None  # the answer is in the phase only if this is its first token
    restarts: bool = False  # whether the steps of the strategies' numbers count anew behind it
    mark: tuple[int, ...] = ()  # all tokens of its end, where they are several

    def at(self, token_ids: Sequence[int]) -> tuple[bool, int]:
        """Return whether an answer that begins so is in the phase, and where its present part begins."""
        if self.opens_with is not None and (not token_ids or token_ids[0] != self.opens_with):
            return False, 0
        end = self._end(token_ids)
        return (True, int(self.opens_with is not None)) if end is None else (False, end)

    def _end(self, token_ids: Sequence[int]) -> int | None:
        """Return behind how many of the tokens its first end stands; None without one."""
        matched = 0
        for index, token_id in enumerate(token_ids):
            matched = self.follow(matched, token_id)
            if matched == self.length:
                return index + 1
        return None

    @property
    def length(self) -> int:
        """Tokens of its end."""
        return max(1, len(self.mark))

    def follow(self, matched: int, token_id: int) -> int:
        """Return how many tokens of its end stand at the end of a text that has one token more.

        Args:
            matched: how many did before, fewer than all.
            token_id: the next token.
        """
        if not self.mark or matched == 0:
            return int(token_id in self.end_ids)
        return matched + 1 if token_id == self.mark[matched] else int(token_id == self.mark[0])

    def matched(self, token_ids: Sequence[int]) -> int:
        """Return how many tokens of its end, but not all, stand at the end of these."""
        ends = (count for count in range(self.length - 1, 0, -1) if tuple(token_ids[-count:]) == self.mark[:count])
        return next(ends, 0)

    def __post_init__(self) -> None:
        if self.mark and self.end_ids != self.mark[:1]:
            raise ValueError("a phase whose end takes several tokens has the first of them as its one end id")
        if not 0 < len(self.end_ids) <= MOST_PHASE_ENDS:
            raise ValueError(
                f"a phase cannot have {len(self.end_ids)} end ids: from 1 to {MOST_PHASE_ENDS} it can"
            )


@dataclass(frozen=True, slots=True)
class PhaseEnd:
    """Where a phase has ended, and who ended it."""

    tokens: int  # of the whole answer, up to its end id and with it
    source: EosSource


class Standing(IntEnum):
    """How a row stands to its phase, as the device keeps it."""

    NONE = 0
    OPEN = 1
    CLOSED = 2
    UNDECIDED = 3  # its next token says whether it is open


class Call(IntEnum):
    """What a step is told of a row's insertion, in its column of the step's input."""

    NONE = 0
    IN_PHASE = 1  # it begins now if the phase is open
    NOW = 2


class RowSteering:
    """One row's phase and insertion as a step follows them: what kernels do, for devices that run on the host.

    Args:
        phase: of the row, whether it is still open, and the insertion that may still come or goes on.
        is_undecided: whether the next token says if the phase is open.
        matched: tokens of the phase's end that the text ends with.

    Attributes:
        restarted: the attempt's token behind the phase from which numbers count anew; None before.
    """

    def __init__(
        self,
        phase: Phase | None,
        *,
        is_open: bool,
        insertion: Insertion | None,
        is_undecided: bool = False,
        matched: int = 0,
    ) -> None:
        self.phase, self.is_open, self.insertion, self.is_undecided = phase, is_open, insertion, is_undecided
        self.matched = matched
        self.restarted: int | None = None

    @property
    def targets(self) -> tuple[int, ...]:
        """The ids that the row's score numbers act on; none where that is EOS."""
        return self.phase.end_ids if self.phase is not None and self.is_open else ()

    def call(self, call: int, step: int) -> None:
        """Let the insertion begin with this step, if it is called for."""
        if call == Call.NOW or (call == Call.IN_PHASE and self.is_open):
            self._begin(step)

    def steer(self, step: int, token_id: int, flags: int, eos_ids: Collection[int]) -> tuple[int, int]:
        """Put in what is to be put in, and end the phase where its end has come.

        Args:
            step: of the attempt's token, from 0.
            token_id: as it was drawn.
            flags: of `worker.engine.plan`, as they belong to it.
            eos_ids: all end tokens.

        Returns:
            The token of this step, and its flags.
        """
        ends = self.targets
        if ends and self.phase is not None and self.phase.eos_inserts and token_id in eos_ids:
            self._begin(step)
        inserted = self.insertion is not None and self.insertion.covers(step)
        if inserted and self.insertion is not None:
            drawn, token_id = token_id, self.insertion.token_ids[step - self.insertion.at]
            alike = any(token_id in kind and drawn in kind for kind in (ends, eos_ids))
            flags = INSERTED | FORCED | (flags & HIDDEN) | (flags & NATURAL if alike else 0)
        if ends and self.phase is not None:
            self.matched = self.phase.follow(self.matched, token_id)
            if self.matched == self.phase.length:
                self.is_open = False
                if self.phase.restarts:
                    self.restarted = step + 1
                if not inserted:
                    self.insertion = None
            elif self.matched == 1 and not inserted and not flags & NATURAL and self.insertion is not None:
                self.insertion = self.insertion.from_mark(self.phase, step)
        elif self.is_undecided and self.phase is not None:
            self.is_undecided = False
            self.is_open = token_id == self.phase.opens_with
            if not self.is_open and not inserted:
                self.insertion = None
        return token_id, flags

    def _begin(self, step: int) -> None:
        """Let the insertion begin with this step, unless it goes on."""
        if self.insertion is not None and not self.insertion.covers(step):
            self.insertion = replace(self.insertion, at=step)
