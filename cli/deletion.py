"""`endmark delete` and `endmark prune`: jobs that nobody needs any more."""

import re
import sys
from collections.abc import Sequence

import click

from endmark.cli.session import opened
from endmark.cli.terminal import note, one_line
from endmark.db.connection import Store
from endmark.db.deletion import EndedJob, check_deletable, delete_job, ended_before
from endmark.db.jobs import resolve_job
from endmark.db.progress import job_status
from endmark.db.sizes import job_size
from endmark.jobs.errors import EndmarkError, JobNotFound, UsageError
from endmark.jobs.spelling import ago, counted, size

_AGE = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(
    short_help="Delete an ended job with its rows and results.",
    epilog="\b\nExamples:\n  endmark delete 3f2a91c0\n  endmark delete 3f2a91c0 77be01d4 --yes",
)
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
@yes_option
def delete(jobs: tuple[str, ...], yes: bool) -> None:
    """Delete jobs that have ended, with their rows and results. It cannot be undone.

    JOB is an id, the beginning of one, or `latest`. A job that has not ended is refused, and then none is deleted.
    """
    with opened() as (_, store):
        job_ids = list(dict.fromkeys(resolve_job(store, job) for job in jobs))
        for job_id in job_ids:
            check_deletable(store, job_id)
        found = [job_status(store, job_id) for job_id in job_ids]
        sizes = _shown(store, [(item.id, item.name, item.state.value, item.total) for item in found])
        _ask(f"delete {counted(len(found), 'job')}, {sizes}?", yes=yes)
        _delete(store, job_ids)
    note(f"{counted(len(job_ids), 'job')} deleted, {sizes}")


@click.command(
    short_help="Delete jobs that ended long ago.",
    epilog="""\b
Examples:
  endmark prune --older-than 30d --dry-run
  endmark prune --older-than 2w --yes""",
)
@click.option("--older-than", required=True, metavar="AGE", help="Since they ended: such as `12h`, `30d`, `4w`.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@yes_option
def prune(older_than: str, dry_run: bool, yes: bool) -> None:
    """Delete the jobs that ended longer ago than AGE, with their rows and results. It cannot be undone.

    Their ids are printed on standard output. Jobs that have not ended stay, whatever their age.
    """
    seconds = age_in_seconds(older_than)
    with opened() as (_, store):
        found = ended_before(store, seconds)
        if not found:
            note(f"no job ended longer than {older_than} ago")
            return
        sizes = _shown(store, [(item.id, item.name, _ended(item), item.total) for item in found])
        if not dry_run:
            _ask(f"delete {counted(len(found), 'job')}, {sizes}?", yes=yes)
            _delete(store, [item.id for item in found])
        for item in found:
            click.echo(item.id)
    note(f"{counted(len(found), 'job')} {'would be deleted' if dry_run else 'deleted'}, {sizes}")


def age_in_seconds(given: str) -> int:
    """Return the seconds of an age such as `30d`.

    Raises:
        UsageError: it is none.
    """
    found = _AGE.fullmatch(given)
    if found is None:
        raise UsageError(
            f"`{given}` is no age", hint="give minutes, hours, days or weeks: `90m`, `12h`, `30d`, `4w`"
        )
    return int(found[1]) * _SECONDS[found[2]]


def _ended(item: EndedJob) -> str:
    """Return a job's state and since when it is in it."""
    return f"{item.state.value}, {ago(item.age)}"


def _shown(store: Store, found: Sequence[tuple[str, str, str, int]]) -> str:
    """Name the jobs that are to go, each with its size; return the size of all."""
    rows = count = 0
    exact = True
    for job_id, name, state, total in found:
        taken = job_size(store, job_id, total)
        about = "" if taken.exact else "about "
        note(f"{job_id}  {one_line(name)}  {state}, {counted(total, 'row')}, {about}{size(taken.bytes)}")
        rows, count, exact = rows + total, count + taken.bytes, exact and taken.exact
    return f"{counted(rows, 'row')}, {'' if exact else 'about '}{size(count)}"


def _ask(question: str, *, yes: bool) -> None:
    """Ask whether to go on.

    Raises:
        UsageError: nobody can answer.
        EndmarkError: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked", hint="`--yes` deletes without asking")
    if not click.confirm(question, err=True):
        raise EndmarkError("nothing was deleted")


def _delete(store: Store, job_ids: Sequence[str]) -> None:
    """Delete jobs, one after the other; one that somebody else has deleted meanwhile is no error."""
    for done, job_id in enumerate(job_ids):
        try:
            delete_job(store, job_id)
        except JobNotFound:
            continue
        except EndmarkError as error:
            error.hint = f"{error.hint or 'call it again'}; {counted(done, 'job')} deleted before"
            raise
