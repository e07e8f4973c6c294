"""From a stored job to its file of results: worked on, waited for, written."""

import shlex
from contextlib import suppress
from typing import Any

import click

from endmark.cli.advice import cut_hint, resume_command, worker_command
from endmark.cli.crew import Crew
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.export import OUTPUT_HELP, check_output, parse_option, write_results
from endmark.cli.finishing import tell_now
from endmark.cli.notifying import wake_workers
from endmark.cli.options import Command
from endmark.cli.progress import job_progress
from endmark.cli.submission import Submission
from endmark.cli.summary import summary
from endmark.cli.terminal import hint, note, one_line
from endmark.cli.waiting import pause, wait_for
from endmark.db.connection import Store
from endmark.db.progress import job_status
from endmark.db.runs import forget_run
from endmark.db.summaries import commonest_error, count_loops
from endmark.jobs.engines import ANY_ENGINE, EngineChoice
from endmark.jobs.errors import EndmarkError, Interrupted, StoreError, UsageError
from endmark.jobs.progress import JobStatus
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState

_FAILED_ROWS = 3  # exit code


def run_options(command: Command) -> Command:
    """Give a command the options of one that may do the work itself: `--run`, `-o`, `--parse`, the engine."""
    named = click.option("-o", "--output", metavar="FILE", help=f"With `--run`: {OUTPUT_HELP}")
    return click.option("--run", is_flag=True, help="Run the rows here, wait, and write the results.")(
        named(parse_option(engine_options(command)))
    )


def check_run(run: bool, output: str | None, parse: bool, options: dict[str, Any]) -> EngineChoice:
    """Refuse one of `--run` and `-o` without the other, and a file that could not be written in the end.

    Args:
        run: whether the rows are to be run here.
        output: the file.
        parse: whether the fields of JSON answers are to have columns of their own.
        options: those of the engine.

    Returns:
        The engine that is to run them.

    Raises:
        UsageError: they do not go together.
        MissingDependency: the engine is not installed here.
    """
    if run and output is None:
        raise UsageError("where are the results to go?", hint="name a file: `--run -o results.csv`")
    if output is not None:
        if not run:
            raise UsageError("nothing is written without `--run`", hint="add `--run`, or leave out `-o`")
        check_output(output)
    elif parse:
        raise UsageError("`--parse` is about the file of results", hint="name it: `--run -o results.csv`")
    return take_engine(options, here=run)


def complete(
    settings: Settings,
    store: Store,
    job: Submission,
    output: str,
    *,
    parse: bool = False,
    engine: EngineChoice = ANY_ENGINE,
) -> int:
    """See a job through, with a worker of its own if none runs, and write its results; return the exit code.

    Args:
        parse: whether the fields of JSON answers have columns of their own.
        engine: of the worker that is started.

    Raises:
        Interrupted: by the user; the job is paused.
        EndmarkError: it cannot be done; the job is paused, or the results are left to `endmark export`.
    """
    status = see_through(settings, store, job, _to_go_on(job, output, parse, engine), engine)
    if status.state is JobState.FAILED:
        forget_run(store, job.job_id)
        tell_now(settings, store, job.job_id)
        again = f"`endmark retry {job.job_id} --failed --run -o {_place(output, parse)}`"
        raise EndmarkError(
            f"job {job.job_id} failed: {one_line(status.error or 'nobody said why')}",
            hint=f"{again} runs it again, once that is fixed",
        )
    _write(store, job.job_id, output, parse=parse)
    tell_now(settings, store, job.job_id)
    error = commonest_error(store, job.job_id) if status.failed else None
    click.echo(summary(status, output, error), err=True)
    if status.state is JobState.CANCELLED:
        raise EndmarkError(f"job {job.job_id} was cancelled", hint="the rows that had a result are exported")
    # A loop is never complete, so where all answers are there is none to be counted.
    loops = count_loops(store, job.job_id) if status.complete < status.succeeded else 0
    if loops:
        ends = "answer ends" if loops == 1 else "answers end"
        hint(
            f"{loops:,} {ends} in a loop, the same words again and again; `--strategy whole` takes such rows back"
        )
    if (advised := cut_hint(status, job.spec)) is not None:
        hint(advised)
    if status.failed:
        hint(f"`endmark export {job.job_id} -o - --only failed` shows why rows failed")
        return _FAILED_ROWS
    return 0


def see_through(
    settings: Settings, store: Store, job: Submission, to_go_on: str, engine: EngineChoice = ANY_ENGINE
) -> JobStatus:
    """Have a job worked on until it has ended, with a worker of its own if none runs; return how it stands then.

    Args:
        to_go_on: how the user goes on with a job that had to be paused.
        engine: of the worker that is started.

    Raises:
        Interrupted: by the user; the job is paused.
        EndmarkError: it cannot be done; the job is paused.
    """
    status = job_status(store, job.job_id)
    if status.state.is_final:
        return status
    try:
        with Crew(settings, store, job.spec, engine) as crew:
            wake_workers(store, crew.broker_url, *job.spec.queue)
            with job_progress() as show:
                return wait_for(store, job.job_id, crew, show)
    except KeyboardInterrupt:
        with suppress(StoreError):
            status = job_status(store, job.job_id)
        if status.state.is_final:
            note(f"job {job.job_id} has ended meanwhile")
            return status
        raise Interrupted(pause(store, job.job_id), hint=to_go_on) from None
    except EndmarkError as error:
        error.hint = f"{error.hint or 'fix it'}\n{pause(store, job.job_id)}: {to_go_on}"
        raise


def _write(store: Store, job_id: str, output: str, *, parse: bool) -> None:
    """Write the results; if that cannot be, name the job, which need not run again.

    Raises:
        EndmarkError: the file cannot be written.
    """
    try:
        write_results(store, job_id, output, parse=parse)
    except EndmarkError as error:
        again = (
            f"`endmark export {job_id} -o {_place(output, parse)}` writes the results of the job, which is done"
        )
        error.hint = f"{error.hint}; {again}" if error.hint else again
        raise
    forget_run(store, job_id)


def _to_go_on(job: Submission, output: str, parse: bool, engine: EngineChoice) -> str:
    """Return the commands that finish an interrupted run."""
    worker = worker_command(job.spec.model, job.spec.adapter, engine.words())
    place, options = _place(output, parse), ["--parse"] * parse + engine.words()
    return (
        f"`{resume_command(job.job_id, output, options)}`, or the same command again, goes on with it;"
        f" so do `endmark resume {job.job_id}` and `{worker}`;"
        f" `endmark export {job.job_id} -o {place}` writes what is done, `endmark cancel {job.job_id}` gives it up"
    )


def _place(output: str, parse: bool) -> str:
    """Return the file of results as it is typed, with what its columns are to be."""
    return shlex.quote(output) + (" --parse" if parse else "")
