"""A job's progress as a table, as lines, and as JSON."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from endmark.cli.finishing import described
from endmark.cli.progress import describe, duration, percent, what_it_does
from endmark.cli.terminal import one_line
from endmark.db.deliveries import DeliveryRecord
from endmark.db.sizes import JobSize
from endmark.jobs.progress import JobStatus, WorkerInfo
from endmark.jobs.spelling import ago, counted, size

_NAME_WIDTH = 32
_JOB_HEADINGS = (
    "JOB",
    "NAME",
    "STATE",
    "ROWS",
    "COMPLETE",
    "EOS",
    "TRUNCATED",
    "FAILED",
    "TOKENS/S",
    "LEFT",
    "MODEL",
)
_SPARED = ("MODEL", "TRUNCATED", "EOS", "LEFT", "TOKENS/S", "FAILED", "COMPLETE", "NAME")  # left out first to last
_WORKER_HEADINGS = ("WORKER", "DEVICE", "ENGINE", "WEIGHTS", "KV CACHE", "TOKENS/S", "SHARDS", "LAST HEARD")


@dataclass(frozen=True, slots=True)
class Details:
    """What is looked up of one job alone."""

    size: JobSize
    deliveries: Sequence[DeliveryRecord]
    price: float | None = None  # of one device for an hour


def as_json(status: JobStatus, details: Details | None = None) -> dict[str, Any]:
    """Return the progress as `endmark status --json` has it; of one job with its details."""
    values = asdict(status)
    values["finish_reasons"] = dict(status.finish_reasons)
    if details is not None:
        values["size"] = {**asdict(details.size), "bytes": details.size.bytes}
        if details.price is not None:
            values["cost"] = _cost(status, details.price)
        values["deliveries"] = [asdict(item) for item in details.deliveries]
    return values


def table_of_jobs(found: Sequence[JobStatus], room: int | None = None) -> str:
    """Return a line for each job; columns for which a terminal of `room` characters has no place are left out."""
    rows = [_JOB_HEADINGS, *map(_job_cells, found)]
    kept = list(range(len(_JOB_HEADINGS)))
    text = table(rows[0], rows[1:])
    for name in _SPARED:
        if room is None or max(map(len, text.splitlines())) <= room:
            break
        kept.remove(_JOB_HEADINGS.index(name))
        heading, *lines = ([row[place] for place in kept] for row in rows)
        text = table(heading, lines)
    return text


def _job_cells(status: JobStatus) -> tuple[str, ...]:
    """Return the cells of one job."""
    done = status.succeeded + status.failed
    shares = (status.complete, status.ended_with_eos, status.truncated)
    ended = status.state.is_final  # long answers end last, so the shares of the first ones mislead
    return (
        status.id,
        one_line(status.name, _NAME_WIDTH),
        what_it_does(status),
        f"{done:,}/{status.total:,}",
        *(percent(part, done) if ended else "–" for part in shares),
        f"{status.failed:,}",
        f"{status.tokens_per_second:,.0f}",
        duration(status.eta_seconds) if status.eta_seconds is not None else "–",
        one_line(status.model, _NAME_WIDTH),
    )


def one_job(status: JobStatus, details: Details | None = None) -> str:
    """Return the lines about one job; with details, where they were looked up."""
    reasons = ", ".join(f"{name} {count:,}" for name, count in status.finish_reasons.items())
    lines = [
        ("job", f"{status.id}  {one_line(status.name)}"),
        ("state", what_it_does(status)),
        *([("because", one_line(status.error))] if status.error is not None else []),
        ("progress", describe(status)),
        ("stored", _when(status)),
        (
            "rows",
            f"{status.pending:,} pending, {status.running:,} running, {status.succeeded:,} succeeded,"
            f" {status.failed:,} failed, {status.cancelled:,} cancelled",
        ),
        ("finish reasons", reasons or "none yet"),
        ("complete", f"{status.complete:,} ({percent(status.complete, status.succeeded + status.failed)})"),
        *([("valid", f"{status.valid:,} of {status.shaped:,}")] if status.shaped else []),
        ("tokens", tokens_of(status)),
        *([("same as others", counted(status.deduplicated, "row"))] if status.deduplicated else []),
        *([("thoughts", _thoughts(status))] if status.reasoning_tokens else []),
        *([("device time", _device_time(status, details))] if status.device_seconds else []),
        *([("size", _size(details.size))] if details is not None else []),
        ("model", one_line(status.model)),
        *([("adapter", one_line(status.adapter))] if status.adapter is not None else []),
        ("strategies", one_line("; ".join(status.strategies))),
        *(("at its end", described(item)) for item in (details.deliveries if details is not None else ())),
    ]
    text = "\n".join(f"{name:<15} {value}" for name, value in lines)
    if not status.workers or status.state.is_final:
        return text
    return f"{text}\n\n{table(_WORKER_HEADINGS, [_worker_cells(item) for item in status.workers])}"


def _when(status: JobStatus) -> str:
    """Return when a job was stored, and when it ended, in words."""
    now = time.time()
    ended = f", ended {ago(now - status.finished_at)}" if status.finished_at is not None else ""
    return f"{ago(now - status.created_at)}{ended}"


def tokens_of(status: JobStatus) -> str:
    """Return how many tokens the rows have had, in words."""
    cached = f" ({status.cached_tokens:,} cached)" if status.cached_tokens else ""
    return f"{status.prompt_tokens:,} of prompts{cached}, {status.completion_tokens:,} of answers"


def _thoughts(status: JobStatus) -> str:
    """Return what the rows have thought, in words."""
    return f"{status.reasoning_tokens:,} of these tokens, {status.ended_in_reasoning:,} rows ended inside one"


def _device_time(status: JobStatus, details: Details | None) -> str:
    """Return how long devices have worked for a job, and what that costs."""
    text = duration(status.device_seconds)
    if details is None or details.price is None:
        return text
    return f"{text}, {_cost(status, details.price):,.2f} at {details.price:,.2f} for a device and hour"


def _cost(status: JobStatus, price: float) -> float:
    """Return what a job has cost so far."""
    return status.device_seconds / 3600 * price


def _size(taken: JobSize) -> str:
    """Return what a job takes in the database, in words."""
    parts = [f"{size(taken.prompt_bytes)} of prompts", f"{size(taken.answer_bytes)} of answers"]
    parts += [f"{size(taken.trace_bytes)} of traces"] if taken.trace_bytes else []
    return ("" if taken.exact else "about ") + ", ".join(parts)


def _worker_cells(worker: WorkerInfo) -> tuple[str, ...]:
    """Return the cells of one worker."""
    return (
        one_line(worker.worker),
        one_line(worker.device),
        one_line(worker.engine),
        f"{worker.weights}, {size(worker.weight_bytes)}" if worker.weight_bytes else worker.weights,
        f"{worker.kv_tokens:,} tokens" if worker.kv_tokens else "–",
        f"{worker.tokens_per_second:,.0f}",
        f"{worker.shards:,}",
        f"{max(0.0, worker.heartbeat_age):.0f} s ago",
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the rows under their headings, in columns."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    )
