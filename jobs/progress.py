"""How far jobs are, and what workers say of themselves, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from endmark.jobs.engines import OWN, computed_with
from endmark.jobs.vocabulary import JobState


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker process says of itself."""

    worker: str  # host:pid
    device: str
    model: str
    adapter: str | None
    weights: str  # packed, expanded, fp8, fp8-original, bf16, or how many layers are
    tokens_per_second: float
    weight_bytes: int = field(default=0, kw_only=True)
    kv_tokens: int = field(default=0, kw_only=True)  # that the KV cache holds; 0 where there is none
    engine: str = field(default=OWN, kw_only=True)  # one of `jobs.engines.ENGINES`

    @property
    def computed_with(self) -> str:
        """What its answers are said to be computed with."""
        return computed_with(self.engine, self.weights)


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
    device_seconds: float = 0.0  # that devices have worked for it, to some seconds a worker
    error: str | None = None  # why the job as a whole has failed
    ended_in_reasoning: int = 0  # rows that ended inside a thought
    reasoning_tokens: int = 0  # of the completion tokens
    silent_seconds: float | None = None  # since a worker that holds its rows was heard of; None if one was lately
    shaped: int = 0  # rows whose answers have a shape
    cached_tokens: int = 0  # of the prompt tokens, that had been computed for other rows
    deduplicated: int = 0  # rows that have the answer of another row, which asked the same
    valid: int = 0  # of these, rows whose answer is a whole value of it
    created_at: float = 0.0  # seconds since 1970, by the database's clock
    finished_at: float | None = None  # the same; None while it has not ended

    @property
    def finished(self) -> int:
        """Rows that have a result."""
        return self.succeeded + self.failed + self.cancelled
