"""Commands that a user may want next, as they would be typed."""

import json
import shlex
from collections.abc import Sequence

from endmark.jobs.errors import SpecError
from endmark.jobs.generation_config import own_sampling, read_generation_config
from endmark.jobs.hub import cached_folder, local_folder
from endmark.jobs.progress import JobStatus
from endmark.jobs.sampling import TABLE, Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import counted
from endmark.jobs.strategies import Place, Strategy, Think, build_strategies, write_strategies


def worker_command(model: str, adapter: str | None, engine: Sequence[str] = ()) -> str:
    """Return the command that starts a worker for a model; `engine`: options that name its engine."""
    words = ["endmark", "worker", *([] if model == DEMO_MODEL else ["--model", model])]
    return shlex.join([*words, *(["--adapter", adapter] if adapter is not None else []), *engine])


def resume_command(job_id: str, output: str, options: Sequence[str] = ()) -> str:
    """Return the command that sees a job through and writes its results; `options`: of it, as words."""
    return shlex.join(["endmark", "resume", job_id, "--run", *options, "-o", output])


def retry_command(job_id: str, spec: GenerationSpec, *, in_thought: bool = False) -> str:
    """Return the command that retries the rows that were cut: to end whole, or with more room if they were to.

    Args:
        job_id: the job.
        spec: of its rows.
        in_thought: whether some ended inside their thought, which is given more room then.
    """
    words = ["endmark", "retry", job_id, "--truncated"]
    if in_thought:
        return shlex.join([*words, "--strategy", write_strategies(with_thought(spec))])
    if any(item.place.is_scores or item.place is Place.AFTER for item in spec.strategies):
        return shlex.join([*words, "--max-new-tokens", str(2 * spec.max_new_tokens)])
    kept = [item for item in spec.strategies if item.place is not Place.NOWHERE]
    return shlex.join([*words, "--strategy", write_strategies([*kept, *build_strategies(["whole"])])])


def cut_hint(status: JobStatus, spec: GenerationSpec) -> str | None:
    """Return the hint for the rows of a job that were cut; None where none was, or all are complete anyway."""
    if status.ended_in_reasoning:
        rows, again = counted(status.ended_in_reasoning, "row"), retry_command(status.id, spec, in_thought=True)
        return f"{rows} ended inside the thought, with no answer; `{again}` gives thoughts more room"
    if status.truncated and status.complete < status.succeeded:
        return f"`{retry_command(status.id, spec)}` retries the rows whose answers were cut"
    return None


def with_thought(spec: GenerationSpec) -> tuple[Strategy, ...]:
    """Return a spec's strategies with twice the budget for thoughts, or one if they had none of their own."""
    before = next((item for item in spec.strategies if isinstance(item, Think)), None)
    given = {**(before.given if before else {}), "budget": 2 * (before.budget if before else spec.max_new_tokens)}
    kept = [item for item in spec.strategies if item is not before and item.place is not Place.NOWHERE]
    return (Think(given), *kept)


def spec_options_of(spec: GenerationSpec, *, here: bool = False) -> str:
    """Return the options that ask for what a job asks for, but for its strategies, which its label names.

    Args:
        spec: the job's.
        here: leave out what the model's own files on this machine say anyway; elsewhere they may say otherwise.
    """
    words = ["--model", spec.model, *(["--adapter", spec.adapter] if spec.adapter is not None else [])]
    words += ["--max-new-tokens", str(spec.max_new_tokens)]
    needed = _needed_here(spec) if here else None
    for item in TABLE:
        value = getattr(spec.sampling, item.name)
        # What is left out may be set by the model's own files.
        if item.name in needed if needed is not None else item.generation_config or value != item.default:
            words += [item.option, item.kind.write(value)]
    for option, value in (("--system", spec.system), ("--template", spec.template)):
        words += [option, value] if value is not None else []
    words += ["--samples", str(spec.samples)] if spec.samples > 1 else []
    words += ["--logprobs", str(spec.logprobs)] if spec.logprobs is not None else []
    words += [spec.shape.kind.option, spec.shape.text] if spec.shape is not None else []
    for name, value in spec.template_args.items():
        words += ["--template-arg", f"{name}={json.dumps(value)}"]
    words += ["--thinking-marks", spec.thinking_marks] if spec.thinking_marks is not None else []
    if spec.template is None and spec.prompt_column != GenerationSpec().prompt_column:
        words += ["--prompt-column", spec.prompt_column]
    return shlex.join([*words, *(["--raw"] if spec.raw else [])])


def _needed_here(spec: GenerationSpec) -> set[str] | None:
    """Return the parameters that a job has not from its model's own files; None if those are not here."""
    folder = local_folder(spec.model) or cached_folder(spec.model)
    if folder is None:
        return None
    try:
        config = read_generation_config(folder)
        own = Sampling(**own_sampling(config))
        needed = {item.name for item in TABLE if getattr(spec.sampling, item.name) != getattr(own, item.name)}
        given = {name: getattr(spec.sampling, name) for name in needed}
        return needed if Sampling(**{**own_sampling(config, given), **given}) == spec.sampling else None
    except SpecError:  # the files were changed since the job was made
        return None


def worker_hint(model: str, adapter: str | None, engine: Sequence[str] = ()) -> str:
    """Return the hint for a job that no worker runs."""
    return f"no worker runs the model of this job; start one with `{worker_command(model, adapter, engine)}`"
