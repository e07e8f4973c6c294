"""The trace of a job as a file of its own: JSON lines, the first about the job, then one for each result."""

import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Row, text

from endmark.db.connection import Store
from endmark.db.jobs import Job
from endmark.db.transactions import reading
from endmark.jobs.errors import UsageError
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.strict_json import strict_json
from endmark.jobs.vocabulary import NOT_NUMBERS

_CHUNK = 1000  # rows read at once
_QUERY = text(
    "SELECT r.row, r.cells, a.attempt, a.round, a.strategies, a.text, a.reasoning, a.reasoning_tokens,"
    " a.ended_in, a.finish_reason, a.eos_source,"
    " a.prompt_tokens, a.completion_tokens, a.eos_prob_max, a.eos_step_max, a.eos_rank_max, a.eos_hidden_steps,"
    " a.eos_probs, a.error"
    " FROM rows r JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row AND a.final AND a.attempt ="
    " (SELECT max(attempt) FROM attempts b WHERE b.job_id = r.job_id AND b.row = r.row AND b.final)"
    " WHERE r.job_id = :job AND r.row >= :first AND r.row < :end"
    " AND (a.eos_prob_max IS NOT NULL OR a.error LIKE :broken) ORDER BY r.row"
)


def write_traces(handle: IO[str], store: Store, job: Job) -> int:
    """Write the line about the job and a line for each row that the model has seen; return how many rows.

    `eos_probs` is null where the row ran without a trace. Steps and ranks count from 0.
    """
    spec = job.spec
    about = {
        "job": job.id,
        "name": job.name,
        "model": spec.model,
        "adapter": spec.adapter,
        "raw": spec.raw,
        "max_new_tokens": spec.max_new_tokens,
        "sampling": asdict(spec.sampling),
    }
    _write_line(handle, about)
    plans = {number: PromptPlan(job.columns, spec) for number, spec in job.specs.items()}
    count = 0
    with reading(store) as connection:
        for first in range(0, job.total, _CHUNK):
            bounds = {"job": job.id, "first": first, "end": first + _CHUNK, "broken": f"{NOT_NUMBERS}%"}
            for found in connection.execute(_QUERY, bounds):
                _write_line(handle, _line(found, plans[found.round]))
                count += 1
    return count


def trace_head(path: str) -> dict[str, Any]:
    """Return what a file of traces says of its job, in its first line.

    Raises:
        UsageError: the file cannot be read, or is none of these.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            about: dict[str, Any] = json.loads(next(file, ""))
        if "max_new_tokens" not in about:
            raise ValueError("it says nothing of a job")
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise no_trace(path, 1, error) from error
    return about


def no_trace(path: str, number: int, error: Exception) -> UsageError:
    """Return the error for a line of a file that is no file of traces."""
    return UsageError(
        f"{path}:{number}: is no trace: {error}",
        hint="`endmark export JOB -o results.csv --trace FILE` makes one",
    )


def _line(found: Row[Any], plan: PromptPlan) -> dict[str, Any]:
    """Return one row's line."""
    request = plan.read(json.loads(found.cells))
    return {
        "row": found.row,
        "attempt": found.attempt,
        "strategies": found.strategies,
        "prompt": request.prompt if request.turns is None else request.turns[-1]["content"],
        "response": found.text,
        "reasoning": found.reasoning,
        "reasoning_tokens": found.reasoning_tokens,
        "ended_in": found.ended_in,
        "finish_reason": found.finish_reason,
        "eos_source": found.eos_source,
        "error": found.error,
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
        "eos_prob_max": found.eos_prob_max,
        "eos_step_max": found.eos_step_max,
        "eos_rank_max": found.eos_rank_max,
        "eos_hidden_steps": found.eos_hidden_steps,
        "eos_probs": _unpacked(found.eos_probs) if found.eos_probs is not None else None,
    }


def _unpacked(packed: bytes) -> list[float]:
    """Return the probabilities, with as many digits as half floats have."""
    return [float(f"{value:.4g}") for value in struct.unpack(f"<{len(packed) // 2}e", packed)]


def _write_line(handle: IO[str], values: dict[str, Any]) -> None:
    """Write an object as one line."""
    handle.write(strict_json(values) + "\n")
