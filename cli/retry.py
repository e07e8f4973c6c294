"""`endmark retry`: retry rows of an ended job, with other strategies or a larger budget."""

from collections.abc import Sequence
from typing import Any

import click

from endmark.cli.advice import worker_hint
from endmark.cli.again import Again, ask_again
from endmark.cli.beforehand import check_broker
from endmark.cli.completion import check_run, complete, run_options
from endmark.cli.notifying import wake_if_reachable
from endmark.cli.session import opened
from endmark.cli.submission import Submission
from endmark.cli.terminal import hint, note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.db.jobs import load_job, resolve_job
from endmark.db.progress import job_status
from endmark.jobs.errors import UsageError
from endmark.jobs.spelling import counted


@click.command(
    short_help="Retry truncated or failed rows of an ended job.",
    epilog="""\b
Examples:
  endmark retry latest --truncated --strategy whole
  endmark retry 3f2a91c0 --truncated --max-new-tokens 800
  endmark retry latest --truncated --strategy whole --run -o results.csv
  endmark retry 3f2a91c0 --failed; endmark status 3f2a91c0 --watch""",
)
@click.argument("job")
@click.option("--failed", is_flag=True, help="The rows that failed.")
@click.option("--truncated", is_flag=True, help="The rows cut in thought or answer, or ended by a loop.")
@click.option(
    "--strategy",
    "strategies",
    metavar="NAME[:key=value,…]",
    multiple=True,
    help="Instead of the job's strategies; may be repeated.  [default: as before]",
)
@click.option("--max-new-tokens", type=int, metavar="N", help="Token budget of each answer.  [default: as before]")
@run_options
def retry(
    job: str,
    failed: bool,
    truncated: bool,
    strategies: Sequence[str],
    max_new_tokens: int | None,
    run: bool,
    output: str | None,
    parse: bool,
    **options: Any,  # noqa: ANN401
) -> int:
    """Retry rows of an ended job. Workers run them, or with `--run` this command does as `endmark run` does.

    The attempts before are kept, and `attempts` counts all.

    A row's own column `strategy` or `max_new_tokens` still goes before these options. JOB is an id, the beginning
    of one, or `latest`.
    """
    if not failed and not truncated:
        raise UsageError("which rows are to be retried?", hint="give `--truncated`, `--failed`, or both")
    engine = check_run(run, output, parse, options)
    with opened() as (settings, store), ended_like_by_ctrl_c():
        check_broker(settings, needed=run)
        job_id = resolve_job(store, job)
        before = load_job(store, job_id)
        wanted = Again(failed, truncated, strategies, max_new_tokens)
        spec = wanted.spec_for(before)
        if not ask_again(store, before, wanted):
            note(f"job {job_id} has no such rows")
            return 0
        if output is not None:
            job_now = Submission(job_id, spec, before.total)
            return complete(settings, store, job_now, output, parse=parse, engine=engine)
        status = job_status(store, job_id)
        wake_if_reachable(settings, store, *spec.queue)
    # A worker that looked by itself may hold some of them already.
    note(f"{counted(status.pending + status.running, 'row')} of job {job_id} are queued again")
    if status.workers:
        hint(f"`endmark status {job_id} --watch` shows how far it is")
    else:
        hint(worker_hint(spec.model, spec.adapter, engine.words()))
    return 0
