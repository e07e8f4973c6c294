"""`endmark run`: a dataset in, a file of answers out; everything between starts and ends by itself."""

import shlex
from typing import Any

import click

from endmark.cli.advice import retry_command, worker_command
from endmark.cli.beforehand import check_broker, check_folders
from endmark.cli.crew import Crew
from endmark.cli.export import OUTPUT_HELP, check_output, write_results
from endmark.cli.notifying import notify
from endmark.cli.options import build_spec, spec_options
from endmark.cli.progress import counting, job_progress
from endmark.cli.session import opened
from endmark.cli.submission import Submission, submit_dataset
from endmark.cli.summary import summary
from endmark.cli.terminal import hint, note
from endmark.cli.waiting import ended_like_by_ctrl_c, pause, wait_for
from endmark.db.connection import Store
from endmark.jobs.errors import EndmarkError, Interrupted
from endmark.jobs.settings import Settings
from endmark.jobs.spelling import counted
from endmark.jobs.vocabulary import JobState, JobStatus

_FAILED_ROWS = 3  # exit code


@click.command(
    short_help="Run a dataset: submit, work, wait, export.",
    epilog="""\b
Examples:
  endmark run prompts.csv -o results.csv
  endmark run prompts.csv -o results.csv --model meta-llama/Llama-2-7b-chat-hf --max-new-tokens 500
  endmark run articles.jsonl -o out.jsonl --template "Summarise: {text}" --strategy soft-landing
  endmark run chats.jsonl -o out.csv --strategy stop:text="###" --on-truncation continue""",
)
@click.argument("dataset")
@click.option("-o", "--output", required=True, metavar="FILE", help=OUTPUT_HELP)
@spec_options
def run(dataset: str, output: str, **options: Any) -> int:  # noqa: ANN401
    """Run every prompt of DATASET (CSV or JSONL; `-` is standard input) and write the answers to a file.

    A broker and a worker are started if none run, and end with this command. Ctrl-C pauses the job. Exits with 3
    if rows have failed.
    """
    check_output(output, dataset=dataset)
    spec = build_spec(options)
    with opened() as (settings, store), ended_like_by_ctrl_c():
        check_broker(settings, needed=True)
        check_folders(spec)
        with counting("checked and stored") as on_progress:
            job = submit_dataset(store, dataset, spec, options, on_progress=on_progress)
        note(f"job {job.job_id}: {counted(job.total, 'row')}")
        status = _completed(settings, store, job, output)
        _write(store, job.job_id, output)
    click.echo(summary(status, output), err=True)
    if status.state is JobState.CANCELLED:
        raise EndmarkError(f"job {job.job_id} was cancelled", hint="the rows that had a result are exported")
    if status.truncated:
        hint(f"`{retry_command(job.job_id, spec)}` retries the rows whose answers were cut")
    if status.failed:
        hint(f"`endmark export {job.job_id} -o - --only failed` shows why rows failed")
        return _FAILED_ROWS
    return 0


def _write(store: Store, job_id: str, output: str) -> None:
    """Write the results; if that cannot be, name the job, which need not run again.

    Raises:
        EndmarkError: the file cannot be written.
    """
    try:
        write_results(store, job_id, output)
    except EndmarkError as error:
        again = f"`endmark export {job_id} -o {shlex.quote(output)}` writes the results of the job, which is done"
        error.hint = f"{error.hint}; {again}" if error.hint else again
        raise


def _completed(settings: Settings, store: Store, job: Submission, output: str) -> JobStatus:
    """See the job through; if it cannot be, leave it paused, and say how to go on."""
    try:
        with Crew(settings, store, job.spec) as crew:
            notify(store, crew.broker_url, job.spec, job.keys)
            with job_progress() as show:
                return wait_for(store, job.job_id, crew, show)
    except KeyboardInterrupt:
        raise Interrupted(pause(store, job.job_id), hint=_to_go_on(job, output)) from None
    except EndmarkError as error:
        error.hint = f"{error.hint or 'fix it'}\n{pause(store, job.job_id)}: {_to_go_on(job, output)}"
        raise


def _to_go_on(job: Submission, output: str) -> str:
    """Return the commands that finish an interrupted run."""
    worker = worker_command(job.spec.model, job.spec.adapter)
    return (
        f"`endmark resume {job.job_id}` and `{worker}` go on with it,"
        f" `endmark export {job.job_id} -o {shlex.quote(output)}` writes what is done,"
        f" `endmark cancel {job.job_id}` gives it up"
    )
