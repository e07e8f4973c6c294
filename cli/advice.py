"""Commands that a user may want next, as they would be typed."""

import shlex

from jobs.settings import DEMO_MODEL
from jobs.spec import GenerationSpec
from jobs.strategies import Place, build_strategies, write_strategies


def worker_command(model: str, adapter: str | None) -> str:
    """Return the command that starts a worker for a model."""
    words = ["endmark", "worker", *([] if model == DEMO_MODEL else ["--model", model])]
    return shlex.join([*words, *(["--adapter", adapter] if adapter is not None else [])])


def retry_command(job_id: str, spec: GenerationSpec) -> str:
    """Return the command that asks again for the cut answers: to land, or, if they were to, with more room."""
    words = ["endmark", "retry", job_id, "--truncated"]
    if any(item.place in (Place.SCORES, Place.AFTER) for item in spec.strategies):
        return shlex.join([*words, "--max-new-tokens", str(2 * spec.max_new_tokens)])
    kept = [item for item in spec.strategies if item.place is not Place.NOWHERE]
    return shlex.join([*words, "--strategy", write_strategies([*kept, *build_strategies(["soft-landing"])])])


def worker_hint(model: str, adapter: str | None) -> str:
    """Return the hint for a job that no worker serves."""
    return f"no worker serves the model of this job; start one with `{worker_command(model, adapter)}`"
