"""A delivery, and the word that it carries: how a job ended, in numbers; no prompt and no answer."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from endmark.jobs.progress import JobStatus

Kind = Literal["command", "url"]
COMMAND: Kind = "command"
URL: Kind = "url"
_LONGEST = 2000  # characters of a text: a variable of an environment holds 128 KiB


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """What is to be told when a job has ended."""

    kind: Kind
    target: str  # a command line for `sh`, or a URL


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that is due."""

    job_id: str
    kind: Kind
    target: str
    key_id: str
    proof: str
    attempt: int  # this one; counts from 1

    @property
    def id(self) -> str:
        """What tells it from all others, the same in every attempt."""
        return f"job_{self.job_id}_{self.kind}"


def word_of(status: JobStatus, when: float) -> str:
    """Return the word about an ended job as JSON.

    Args:
        when: seconds since 1970.
    """
    data = {
        "job": status.id,
        "name": status.name[:_LONGEST],
        "state": status.state.value,
        "model": status.model,
        "adapter": status.adapter,
        "error": None if status.error is None else status.error[:_LONGEST],
        "rows": status.total,
        "succeeded": status.succeeded,
        "failed": status.failed,
        "cancelled": status.cancelled,
        "complete": status.complete,
        "truncated": status.truncated,
        "ended_with_eos": status.ended_with_eos,
        "prompt_tokens": status.prompt_tokens,
        "cached_tokens": status.cached_tokens,
        "completion_tokens": status.completion_tokens,
    }
    timestamp = datetime.fromtimestamp(when, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": "job.ended", "timestamp": timestamp, "data": data})
