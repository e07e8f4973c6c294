"""Storing rows as a job and running it, from Python."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from endmark.cli.beforehand import check_broker, check_folders
from endmark.cli.completion import see_through
from endmark.cli.engines import NAMES, take_engine
from endmark.cli.finishing import tell_now, wanted_deliveries
from endmark.cli.notifying import wake_if_reachable
from endmark.cli.session import opened
from endmark.cli.submission import Submission, resumed, submit_dataset, submit_rows
from endmark.cli.terminal import note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.client.job import Job
from endmark.client.options import in_python, parse_options
from endmark.db.connection import Store
from endmark.db.progress import all_statuses
from endmark.jobs.datasets.rows import RowsDataset
from endmark.jobs.engines import EngineChoice
from endmark.jobs.errors import DatasetError, EndmarkError, UsageError
from endmark.jobs.remote import is_url
from endmark.jobs.settings import Settings
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import counted
from endmark.jobs.vocabulary import JobState


@in_python()
def run(rows: Any, **options: Any) -> Job:  # noqa: ANN401
    """Store rows as a job and run it to its end, as `endmark run` does; return the job.

    A broker and a worker are started if none run, and end with this call.

    Args:
        rows: a data frame of pandas or polars, an iterable of prompts, of dictionaries or of lists of chat turns,
            or the path or URL of a file.
        options: those of `endmark submit`, `max_new_tokens=100` for `--max-new-tokens 100`, and the engine's, such
            as `engine="vllm"` and `tensor_parallel=2`.

    Raises:
        DatasetError: rows cannot be used; nothing was stored.
        TypeError: there is no such option.
        MissingDependency: the engine is not installed.
        Interrupted: by Ctrl-C; the job is paused, and `endmark.Job("latest").run()` goes on with it.
        EndmarkError: it cannot be run; the message says why.
    """
    engine = take_engine(options)
    spec, given = parse_options(options, files=_is_file(rows))
    with opened() as (settings, store), _signals():
        check_broker(settings, needed=True)
        check_folders(*spec.queue)
        stored = _store(settings, store, rows, spec, given)
        _work_on(settings, store, stored, engine)
    return Job.known(stored.job_id)


@in_python()
def submit(rows: Any, **options: Any) -> Job:  # noqa: ANN401
    """Store rows as a job for workers that run elsewhere; return the job.

    The arguments are those of `run` but for the engine, which is the workers'.

    Raises:
        DatasetError: rows cannot be used; nothing was stored.
        TypeError: there is no such option.
        UsageError: a value is wrong.
    """
    spec, given = parse_options(options, files=_is_file(rows))
    with opened() as (settings, store):
        check_broker(settings)
        stored = _store(settings, store, rows, spec, given)
        wake_if_reachable(settings, store, *stored.spec.queue)
    return Job.known(stored.job_id)


def list_jobs() -> list[Job]:
    """Return all jobs, the newest first."""
    with opened() as (_, store):
        return [Job.known(item.id) for item in all_statuses(store)]


def run_job(job_id: str, options: dict[str, Any]) -> None:
    """Run a stored job to its end, under the engine that the options name.

    Raises:
        TypeError: there is no such option.
        MissingDependency: the engine is not installed.
        Interrupted: by Ctrl-C; the job is paused.
        EndmarkError: it cannot be run.
    """
    engine = take_engine(options)
    if options:
        raise TypeError(f"there is no option `{next(iter(options))}`; those of the engine are {', '.join(NAMES)}")
    with opened() as (settings, store), _signals():
        check_broker(settings, needed=True)
        _work_on(settings, store, resumed(store, job_id), engine)


def _work_on(settings: Settings, store: Store, job: Submission, engine: EngineChoice) -> None:
    """Have a job worked on to its end.

    Raises:
        Interrupted: by Ctrl-C; the job is paused.
        EndmarkError: it cannot be run.
    """
    again = f"`endmark.Job({job.job_id!r}).run()` goes on with it"
    status = see_through(settings, store, job, again, engine)
    tell_now(settings, store, job.job_id)
    if status.state is JobState.FAILED:
        again = f"once that is fixed, `endmark retry {job.job_id} --failed` runs it again"
        raise EndmarkError(f"job {job.job_id} failed: {status.error}", hint=again)


def _is_file(rows: Any) -> bool:  # noqa: ANN401
    """Whether the rows are those of a file."""
    return isinstance(rows, str | Path)


def _store(
    settings: Settings,
    store: Store,
    rows: Any,  # noqa: ANN401
    spec: GenerationSpec,
    options: dict[str, Any],
) -> Submission:
    """Store rows as a job, whole or not at all."""
    wanted = wanted_deliveries(settings, options)
    if isinstance(rows, str) and not Path(rows).suffix and not is_url(rows) and not Path(rows).exists():
        raise UsageError(f"there is no file `{rows}`", hint="a text is the path of a file: give prompts as a list")
    if _is_file(rows):
        job = submit_dataset(store, str(rows), spec, options, deliveries=wanted)
    else:
        with RowsDataset(rows) as dataset:
            name = options["name"] or "Python"
            try:
                priority = options["priority"]
                job = submit_rows(store, dataset, spec, name=name, priority=priority, deliveries=wanted)
            except DatasetError as error:
                error.hint = "correct them, or leave them out; nothing was stored"
                raise
    note(f"job {job.job_id}: {counted(job.total, 'row')}")
    return job


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM end the call as Ctrl-C does, where signals may be handled."""
    main = threading.current_thread() is threading.main_thread()
    with ended_like_by_ctrl_c() if main else nullcontext():
        yield
