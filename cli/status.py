"""`endmark status`: how far the jobs are, and what they wait for. It also does the reaper's work."""

import shutil
import sys
from collections.abc import Sequence

import click

from endmark.cli.advice import worker_hint
from endmark.cli.pricing import price_option
from endmark.cli.progress import duration
from endmark.cli.session import opened
from endmark.cli.status_view import Details, as_json, one_job, table_of_jobs
from endmark.cli.terminal import hint, note, one_line
from endmark.cli.watching import watched
from endmark.db.connection import Store
from endmark.db.deliveries import deliveries_of
from endmark.db.jobs import resolve_job
from endmark.db.progress import SILENT_SECONDS, all_statuses, clock_ahead, job_status, listed_statuses
from endmark.db.reaper import reap
from endmark.db.sizes import job_size
from endmark.jobs.broker.access import find_broker
from endmark.jobs.broker.address import mask, why_full, why_silent
from endmark.jobs.errors import BrokerError, StoreError
from endmark.jobs.progress import JobStatus
from endmark.jobs.settings import Settings
from endmark.jobs.strict_json import strict_json
from endmark.jobs.vocabulary import JobState

_FAILED_ROWS = 3  # exit code
_MOST = 20  # jobs in a table
_CLOCK_APART = 60.0  # seconds; hosts that keep time are within one


@click.command(
    short_help="Show how far the jobs are, or one job.",
    epilog="""\b
Examples:
  endmark status
  endmark status latest --watch
  endmark status 3f2a91c0 --json""",
)
@click.argument("job", required=False)
@click.option("--watch", is_flag=True, help="Go on until the job, or every job, has ended.")
@click.option(
    "--all", "all_wanted", is_flag=True, help="Show every job, not only those that go on and the newest."
)
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON: an object, or without JOB a list of them.")
@price_option
def status(job: str | None, watch: bool, all_wanted: bool, json_wanted: bool, price: float | None) -> int:
    """Show how far the jobs are, the newest first, or one job with its workers.

    Of more than 20 jobs those that have not ended are shown, and the newest of the others; `--all` shows all of
    them, and JSON holds all in any case.

    JOB is an id, the beginning of one, or `latest`. Works without a broker too. With `--watch`, exits with 3 if
    rows of JOB have failed in the end.
    """
    with opened() as (settings, store):
        job_id = resolve_job(store, job) if job is not None else None
        _care(settings, store)

        def read() -> list[JobStatus]:
            if job_id is not None:
                return [job_status(store, job_id)]
            return all_statuses(store) if all_wanted or json_wanted else _newest(store)

        view = (lambda jobs: one_job(jobs[0])) if job_id is not None else _fitting
        found = watched(read, view, lambda: _care(settings, store)) if watch else read()
        details = None
        if job_id is not None:
            details = Details(job_size(store, job_id, found[0].total), deliveries_of(store, job_id), price)
        _print(found, details, json_wanted)
        if not json_wanted:
            _tell_others(store, len(found), single=job_id is not None)
            _advise(settings, found, single=job_id is not None)
    failed = watch and job_id is not None and found[0].failed
    return _FAILED_ROWS if failed else 0


def _newest(store: Store) -> list[JobStatus]:
    """Return how far those jobs are that have place in a table, the newest first."""
    found, _ = listed_statuses(store, most=_MOST)
    return sorted(found, key=lambda item: -item.created_at)


def _tell_others(store: Store, shown: int, *, single: bool) -> None:
    """Say that there are more jobs than are shown, which may be where the table is full."""
    if not single and shown == _MOST < (total := listed_statuses(store, most=0)[1]):
        note(f"{shown:,} of {total:,} jobs; `endmark status --all` shows all of them")


def _fitting(found: Sequence[JobStatus]) -> str:
    """Return a line for each job that the terminal has place for."""
    return table_of_jobs(found, shutil.get_terminal_size().columns)


def _print(found: Sequence[JobStatus], details: Details | None, json_wanted: bool) -> None:
    """Print the jobs, or the one with its details, on standard output."""
    single = details is not None
    if json_wanted:
        values = [as_json(item, details) for item in found]
        # ASCII alone, so that no name can control the terminal.
        click.echo(strict_json(values[0] if single else values, indent=2))
    elif single:
        click.echo(one_job(found[0], details))
    elif found:
        click.echo(_fitting(found) if sys.stdout.isatty() else table_of_jobs(found))
    else:
        note("no jobs yet")
        hint("`endmark run DATASET -o FILE`, or `endmark submit DATASET`")


def _care(settings: Settings, store: Store) -> None:
    """Put back what dead workers held; say what is in the way."""
    problem = _broker_problem(settings)
    if problem:
        note(f"the broker {problem}; workers poll the database")
    ahead = clock_ahead(store)
    if abs(ahead) > _CLOCK_APART:
        which = "ahead of" if ahead > 0 else "behind"
        note(f"the database's clock is {duration(abs(ahead))} {which} this host's: one of the two is wrong")
        hint("let both keep time by NTP; leases go by the database's clock, so no rows are lost by it")
    try:
        reap(store)
    except StoreError as error:  # a full disk, say: what is stored can be read all the same
        note(f"cannot put back what dead workers held: {error}")
        if error.hint:
            hint(error.hint)


def _broker_problem(settings: Settings) -> str | None:
    """Return what is wrong with the broker that is set; our own need not run while no worker does."""
    if settings.broker_url is None:
        return None
    try:
        silent, full = why_silent(settings.broker_url), why_full(settings.broker_url)
    except BrokerError as error:
        return f"does not answer: {error}"
    if silent:
        return f"does not answer: `{mask(settings.broker_url)}`: {silent}"
    return full and f"is short of memory: `{mask(settings.broker_url)}`: {full}"


def _advise(settings: Settings, found: Sequence[JobStatus], *, single: bool) -> None:
    """Say what the jobs that have not ended wait for."""
    waiting = [item for item in found if item.state in (JobState.QUEUED, JobState.RUNNING)]
    unserved = dict.fromkeys((item.model, item.adapter) for item in waiting if not item.workers)
    for model, adapter in unserved:
        hint(worker_hint(model, adapter))
    if settings.broker_url is None and any(item.workers for item in waiting) and find_broker(settings) is None:
        note("the broker does not run; the workers start it again")
    silent = {worker.worker: worker.heartbeat_age for item in waiting for worker in item.workers}
    for worker, age in silent.items():
        if age > SILENT_SECONDS:
            note(f"worker {one_line(worker)} has not been heard of for {age:.0f} s: it or its network is away")
            hint("others take up its rows when its leases end")
    for item in found:
        if item.state is JobState.FAILED:
            again = f"`endmark retry {item.id} --failed` runs it again, once that is fixed"
            if single:
                hint(again)
            else:
                note(f"job {item.id} failed: {one_line(item.error or 'nobody said why')}; {again}")
        if item.state is JobState.PAUSED and len(found) == 1:
            hint(f"`endmark resume {item.id}` lets it go on")
