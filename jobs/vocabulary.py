"""The words that all parts share, as frozen values: states, shards, verdicts, attempts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

NOT_NUMBERS = "the model's scores are no numbers"  # how the error of such a row begins


class FinishReason(StrEnum):
    """How an attempt ended. What follows from it is said here alone; counters, columns and pages derive it."""

    label: str  # in tables
    told: str  # in words
    openai: str | None  # as the OpenAI API has it; None where there is no answer
    truncated: bool  # whether the answer was cut

    def __new__(
        cls, value: str, label: str = "", told: str = "", openai: str | None = None, truncated: bool = False
    ) -> Self:
        """Make a member whose value is its name in the database."""
        made = str.__new__(cls, value)
        made._value_ = value
        made.label, made.told, made.openai, made.truncated = label, told, openai, truncated
        return made

    EOS = "eos", "EOS", "EOS", "stop"
    STOP_SEQUENCE = "stop_sequence", "stop sequence", "stop sequence", "stop"
    REPETITION = "repetition", "repetition", "cut: it repeated itself", "length", True
    LENGTH = "length", "length", "cut: the token budget ran out", "length", True
    ERROR = "error", "failed", "failed"
    CANCELLED = "cancelled", "cancelled", "cancelled"

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer, whole or not."""
        return self.openai is not None


class EosSource(StrEnum):
    """Whose EOS it was: the model's own, one that a strategy raised or forced, or nobody can tell."""

    label: str  # in tables
    told: str  # in words

    def __new__(cls, value: str, label: str = "", told: str = "") -> Self:
        """Make a member whose value is its name in the database."""
        made = str.__new__(cls, value)
        made._value_ = value
        made.label, made.told = label, told
        return made

    NATURAL = "natural", "natural EOS", "EOS of the model's own"
    BOOSTED = "boosted", "boosted", "EOS, boosted by the strategy"
    FORCED = "forced", "forced", "EOS, forced"
    UNKNOWN = "unknown", "EOS of unknown source", "EOS, and the engine cannot tell whose"


class End(NamedTuple):
    """How an attempt ended, and where that was EOS, whose."""

    reason: FinishReason
    source: EosSource | None = None

    @classmethod
    def of(cls, reason: str, source: str | None) -> Self:
        """Return the end of a stored row; of an EOS from before its source was stored, natural."""
        found = FinishReason(reason)
        if found is not FinishReason.EOS:
            return cls(found)
        return cls(found, EosSource(source) if source else EosSource.NATURAL)

    @property
    def name(self) -> str:
        """Its name among all ends."""
        return self.source or self.reason

    @property
    def counter(self) -> str | None:
        """The counter of a shard that counts it; None for rows that nobody worked on."""
        if self.reason is FinishReason.CANCELLED:
            return None
        return f"eos_{self.source}" if self.source else "failed" if self.failed else self.reason.value

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.source.label if self.source else self.reason.label

    @property
    def told(self) -> str:
        """The same in words."""
        return self.source.told if self.source else self.reason.told

    @property
    def failed(self) -> bool:
        """Whether the row has an error instead of an answer."""
        return self.reason is FinishReason.ERROR

    @property
    def by_itself(self) -> bool:
        """Whether nothing was done to end it: the model's own EOS, or a stop that the user asked for."""
        return self.source is EosSource.NATURAL or self.reason is FinishReason.STOP_SEQUENCE


ENDS: tuple[End, ...] = (
    *(End(FinishReason.EOS, source) for source in EosSource),
    *(End(reason) for reason in FinishReason if reason is not FinishReason.EOS),
)


class JobState(StrEnum):
    """Where a job stands; SUBMITTING jobs are still being stored and are shown to nobody."""

    SUBMITTING = "submitting"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether the job has nothing left to do."""
        return self in _FINAL_STATES


_FINAL_STATES = frozenset(
    {JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS, JobState.CANCELLED, JobState.FAILED}
)


class ShardState(StrEnum):
    """Where a shard stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended, in the terms of the design's section 6."""

    finish_reason: FinishReason
    eos_source: EosSource | None = None
    stop_sequence: str | None = None  # the string that matched, only with STOP_SEQUENCE
    error: str | None = None  # why the row failed, only with ERROR

    @property
    def ended_with_eos(self) -> bool:
        """Whether an end token of the model was sampled."""
        return self.finish_reason is FinishReason.EOS

    @property
    def end(self) -> End:
        """The same as one of `ENDS`."""
        return End.of(self.finish_reason, self.eos_source)

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut: by the token budget, or because it ran in a loop."""
        return self.finish_reason.truncated


class Ending(StrEnum):
    """Where the text of an answer ends; `jobs.endings` judges it."""

    SENTENCE = "sentence"
    ITEM = "item"
    BLOCK = "block"
    PHRASE = "phrase"
    OPEN = "open"
    LOOP = "loop"
    EMPTY = "empty"

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing there, whoever ended the text."""
        return self in (Ending.SENTENCE, Ending.ITEM, Ending.BLOCK)

    def is_complete(self, end: End) -> bool:
        """Whether an answer with this ending is complete: whole, or a phrase with which the model ended itself."""
        return end.reason.has_answer and (self.is_whole or (self is Ending.PHRASE and end.by_itself))


class Part(StrEnum):
    """The part of an answer in which it ended, where models think before they answer."""

    ANSWER = "answer"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class EosTrace:
    """What the model thought of ending, over one attempt.

    EOS probability is the mass summed over all EOS ids in the softmax of the raw fp32 logits, before
    temperature, top-k, top-p and every strategy.
    """

    prob_max: float | None = None  # its maximum over the attempt; None where no token was sampled
    step_max: int | None = None  # the generated token, from 0, at which it stood there
    rank_max: int | None = None  # the rank there of the best EOS id among all tokens, from 0
    hidden_steps: int = 0  # in which sampling left no EOS id to draw, or a mask hid an EOS that was the best
    probs: tuple[float, ...] | None = None  # at every step, only where the job asked for a trace


@dataclass(frozen=True, slots=True)
class Attempt:
    """One generation of one row."""

    row: int  # from 0, in input order
    attempt: int  # from 1, within the row
    text: str  # the row's whole answer as of this attempt, its thoughts left out
    verdict: Verdict
    prompt_tokens: int
    completion_tokens: int  # tokens of thoughts and answer, the end token not counted
    trace: EosTrace = EosTrace()
    strategies: str = ""  # as they would be written on the command line
    ending: Ending | None = None  # None where it has not been worked out
    trimmed_tokens: int = 0  # tokens that were dropped from the end of the answer
    rewinds: int = 0  # how often it was taken back out of a loop
    rewound_tokens: int = 0  # tokens that were dropped then
    reasoning: str | None = None  # its thoughts; None where it has none
    reasoning_tokens: int = 0  # of the completion tokens, marks included
    ended_in: Part | None = None  # None of a row that failed
    thought_closed: EosSource | None = None  # who closed its last thought; None where it was never closed
    valid: bool | None = None  # whether the text is a whole value of the row's shape; None where it has none
    logprobs: str | None = None  # of its tokens, as `jobs.logprobs` has them
    choice_probs: Mapping[str, float] | None = None  # of each label, where the answer was chosen by its score
    cached_tokens: int = (
        0  # of the prompt, that had been computed for other rows; 0 where the engine does not tell
    )
    same_as: int | None = None  # the row whose answer it is; None of a row that was run itself
    weights: str | None = None  # with which it was computed, as `status` names those of its worker

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, as far as its ending is known; one in a shape if it is valid."""
        if self.valid is not None:
            return self.valid
        return self.ending is not None and self.ending.is_complete(self.verdict.end)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row has come to: its attempts of one claim, oldest first; the last one is its result."""

    round: int  # of the row, see `StoredRow`
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class ShardKey:
    """One shard of one job: a contiguous range of rows, one queue message, one lease."""

    job_id: str
    shard: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed shard. Every write under it names fence and worker, so that a late one is refused.

    The worker, since a database that has lost its last second gives the same fence once more.
    """

    key: ShardKey
    fence: int
    first_row: int
    end_row: int  # one past the last row
    attempts: int  # how often the shard has been claimed, this claim counted
    worker: str  # who holds it


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row that has no result yet, as a worker reads it."""

    row: int
    cells: tuple[Any, ...]  # the input's cells (JSON values), in the order of the job's columns
    round: int  # 0 as submitted; counts up with each `endmark retry` that takes the row
    attempts: int  # attempts already stored
