"""Commands that a user may want next, as they would be typed."""

import shlex

from endmark.jobs.sampling import TABLE
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import Place, build_strategies, write_strategies


def worker_command(model: str, adapter: str | None) -> str:
    """Return the command that starts a worker for a model."""
    words = ["endmark", "worker", *([] if model == DEMO_MODEL else ["--model", model])]
    return shlex.join([*words, *(["--adapter", adapter] if adapter is not None else [])])


def retry_command(job_id: str, spec: GenerationSpec) -> str:
    """Return the command that retries the rows that were cut: to end whole, or with more room if they were to."""
    words = ["endmark", "retry", job_id, "--truncated"]
    if any(item.place.is_scores or item.place is Place.AFTER for item in spec.strategies):
        return shlex.join([*words, "--max-new-tokens", str(2 * spec.max_new_tokens)])
    kept = [item for item in spec.strategies if item.place is not Place.NOWHERE]
    return shlex.join([*words, "--strategy", write_strategies([*kept, *build_strategies(["whole"])])])


def spec_options_of(spec: GenerationSpec) -> str:
    """Return the options that ask for what a job asks for, but for its strategies, which its label names."""
    words = ["--model", spec.model, *(["--adapter", spec.adapter] if spec.adapter is not None else [])]
    words += ["--max-new-tokens", str(spec.max_new_tokens)]
    for item in TABLE:
        value = getattr(spec.sampling, item.name)
        if item.generation_config or value != item.default:  # what is left out may be set by the model's own files
            words += [item.option, item.kind.write(value)]
    for option, value in (("--system", spec.system), ("--template", spec.template)):
        words += [option, value] if value is not None else []
    if spec.template is None and spec.prompt_column != GenerationSpec().prompt_column:
        words += ["--prompt-column", spec.prompt_column]
    return shlex.join([*words, *(["--raw"] if spec.raw else [])])


def worker_hint(model: str, adapter: str | None) -> str:
    """Return the hint for a job that no worker runs."""
    return f"no worker runs the model of this job; start one with `{worker_command(model, adapter)}`"
