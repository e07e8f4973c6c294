"""The words that all parts share, as frozen values: states, shards, verdicts, attempts, progress."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NOT_NUMBERS = "the model's scores are no numbers"  # how the error of such a row begins


class FinishReason(StrEnum):
    """How an attempt ended."""

    EOS = "eos"
    STOP_SEQUENCE = "stop_sequence"
    REPETITION = "repetition"
    LENGTH = "length"
    ERROR = "error"
    CANCELLED = "cancelled"


class EosSource(StrEnum):
    """Whose EOS it was: the model's own, one a strategy raised, or one it left no choice about."""

    NATURAL = "natural"
    BOOSTED = "boosted"
    FORCED = "forced"


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
    def ended_by_itself(self) -> bool:
        """Whether nothing was done to end it: the model's own EOS, or a stop that the user asked for."""
        return self.eos_source is EosSource.NATURAL or self.finish_reason is FinishReason.STOP_SEQUENCE

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut: by the token budget, or because it ran in a loop."""
        return self.finish_reason in (FinishReason.LENGTH, FinishReason.REPETITION)


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

    def is_complete(self, verdict: Verdict) -> bool:
        """Whether an answer with this ending is complete: whole, or a phrase with which the model ended itself."""
        if verdict.finish_reason in (FinishReason.ERROR, FinishReason.CANCELLED):
            return False
        return self.is_whole or (self is Ending.PHRASE and verdict.ended_by_itself)


@dataclass(frozen=True, slots=True)
class EosTrace:
    """What the model thought of ending, over one attempt.

    EOS probability is the mass summed over all EOS ids in the softmax of the raw fp32 logits, before
    temperature, top-k, top-p and every strategy.
    """

    prob_max: float | None = None  # its maximum over the attempt; None where no token was sampled
    step_max: int | None = None  # the generated token, from 0, at which it stood there
    rank_max: int | None = None  # the rank there of the best EOS id among all tokens, from 0
    hidden_steps: int = 0  # steps in which top-k or top-p left no EOS id to sample
    probs: tuple[float, ...] | None = None  # at every step, only where the job asked for a trace


@dataclass(frozen=True, slots=True)
class Attempt:
    """One generation of one row."""

    row: int  # from 0, in input order
    attempt: int  # from 1, within the row
    text: str  # the row's whole answer as of this attempt
    verdict: Verdict
    prompt_tokens: int
    completion_tokens: int  # tokens of the answer, the end token not counted
    trace: EosTrace = EosTrace()
    strategies: str = ""  # as they would be written on the command line
    ending: Ending | None = None  # None where it has not been worked out
    trimmed_tokens: int = 0  # tokens that were dropped from the end of the answer

    @property
    def complete(self) -> bool:
        """Whether the answer is complete, as far as its ending is known."""
        return self.ending is not None and self.ending.is_complete(self.verdict)


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
    """A claimed shard. Every write under it names `fence`, so that a late one is refused."""

    key: ShardKey
    fence: int
    first_row: int
    end_row: int  # one past the last row
    attempts: int  # how often the shard has been claimed, this claim counted


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One row that has no result yet, as a worker reads it."""

    row: int
    cells: tuple[Any, ...]  # the input's cells (JSON values), in the order of the job's columns
    round: int  # 0 as submitted; counts up with each `endmark retry` that takes the row
    attempts: int  # attempts already stored


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker process says of itself."""

    worker: str  # host:pid
    device: str
    model: str
    adapter: str | None
    weights: str  # packed, expanded, or how many layers are
    tokens_per_second: float
    weight_bytes: int = field(default=0, kw_only=True)
    kv_tokens: int = field(default=0, kw_only=True)  # that the KV cache holds; 0 where there is none


@dataclass(frozen=True, slots=True)
class WorkerInfo(WorkerReport):
    """One worker process as it last reported itself."""

    heartbeat_age: float  # seconds
    shards: int  # leases it holds


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and its progress, as `endmark status --json` prints it."""

    id: str
    name: str
    state: JobState
    model: str
    adapter: str | None
    strategies: tuple[str, ...]
    total: int
    pending: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    finish_reasons: Mapping[str, int]
    ended_with_eos: int
    truncated: int
    complete: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float
    eta_seconds: float | None
    workers: tuple[WorkerInfo, ...] = field(default=())
    error: str | None = None  # why the job as a whole has failed
    silent_seconds: float | None = None  # since a worker that holds its rows was heard of; None if one was lately

    @property
    def finished(self) -> int:
        """Rows that have a result."""
        return self.succeeded + self.failed + self.cancelled
