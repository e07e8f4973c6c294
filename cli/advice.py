"""Commands that a user may want next, as they would be typed."""

import shlex

from jobs.settings import DEMO_MODEL


def worker_command(model: str, adapter: str | None) -> str:
    """Return the command that starts a worker for a model."""
    words = ["endmark", "worker", *([] if model == DEMO_MODEL else ["--model", model])]
    return shlex.join([*words, *(["--adapter", adapter] if adapter is not None else [])])


def worker_hint(model: str, adapter: str | None) -> str:
    """Return the hint for a job that no worker serves."""
    return f"no worker serves the model of this job; start one with `{worker_command(model, adapter)}`"
