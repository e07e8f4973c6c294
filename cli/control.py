"""`endmark cancel`, `pause` and `resume`: what a user may do to a job that is under way."""

from typing import Any

import click

from endmark.cli.advice import worker_hint
from endmark.cli.beforehand import check_broker
from endmark.cli.completion import check_run, complete, run_options
from endmark.cli.notifying import wake_if_reachable
from endmark.cli.session import opened
from endmark.cli.submission import resumed
from endmark.cli.terminal import hint, note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.db.jobs import cancel_job, load_job, pause_job, resolve_job, resume_job
from endmark.db.progress import job_status


@click.command(
    short_help="End a job; what is done is kept.",
    epilog="\b\nExamples:\n  endmark cancel 3f2a91c0\n  endmark cancel latest",
)
@click.argument("job")
def cancel(job: str) -> None:
    """End a job. Rows that have a result keep it, and `endmark export` writes them.

    JOB is an id, the beginning of one, or `latest`.
    """
    with opened() as (_, store):
        job_id = resolve_job(store, job)
        cancel_job(store, job_id)
        status = job_status(store, job_id)
    note(f"job {job_id} is cancelled; {status.succeeded + status.failed:,} of {status.total:,} rows have a result")
    hint(f"`endmark export {job_id} -o FILE` writes them")


@click.command(
    short_help="Stop a job, to be resumed.",
    epilog="\b\nExamples:\n  endmark pause 3f2a91c0\n  endmark pause latest",
)
@click.argument("job")
def pause(job: str) -> None:
    """Stop a job where it stands. Rows that run are dropped and start again when the job is resumed.

    JOB is an id, the beginning of one, or `latest`.
    """
    with opened() as (_, store):
        job_id = resolve_job(store, job)
        pause_job(store, job_id)
    note(f"job {job_id} is paused")
    hint(f"`endmark resume {job_id}` lets it go on")


@click.command(
    short_help="Let a paused or interrupted job go on.",
    epilog="""\b
Examples:
  endmark resume 3f2a91c0
  endmark resume latest --run -o results.csv
  endmark resume latest; endmark status latest --watch""",
)
@click.argument("job")
@run_options
def resume(job: str, run: bool, output: str | None, parse: bool, **options: Any) -> int:  # noqa: ANN401
    """Let a paused or interrupted job go on, with the rows that have no result yet.

    Workers run them, or with `--run` this command does as `endmark run` does.

    JOB is an id, the beginning of one, or `latest`.
    """
    engine = check_run(run, output, parse, options)
    with opened() as (settings, store), ended_like_by_ctrl_c():
        job_id = resolve_job(store, job)
        if output is not None:
            check_broker(settings, needed=True)
            return complete(settings, store, resumed(store, job_id), output, parse=parse, engine=engine)
        resume_job(store, job_id)
        found = load_job(store, job_id)
        wake_if_reachable(settings, store, *found.spec.queue)
        workers = job_status(store, job_id).workers
    note(f"job {job_id} goes on")
    if not workers:
        hint(worker_hint(found.spec.model, found.spec.adapter, engine.words()))
    return 0
