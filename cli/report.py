"""`endmark report`: how a job's answers ended, as a table and a page."""

from pathlib import Path

import click

from endmark.cli.pages.gathering import build_report, check_page, figures, table, write_report
from endmark.cli.session import opened
from endmark.cli.terminal import note
from endmark.db.connection import Store
from endmark.db.jobs import load_job, resolve_job
from endmark.db.progress import job_status
from endmark.jobs.errors import UsageError
from endmark.jobs.strict_json import strict_json


@click.command(
    short_help="Show how a job's answers ended, as a page.",
    epilog="""\b
Examples:
  endmark report latest -o report.html
  endmark report 3f2a91c0 8be1d207 -o both.html
  endmark report latest --json | jq .jobs[0].labels""",
)
@click.argument("jobs", metavar="JOB…", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="The page to write (HTML).")
@click.option("--json", "json_wanted", is_flag=True, help="Print the figures as a JSON object, not as a table.")
def report(jobs: tuple[str, ...], output: str | None, json_wanted: bool) -> None:
    """Write a page about a job: how its answers ended, how long they are, their EOS probability, and the answers.

    Of a job with `--choices` it also tells how many rows have each label, how many should have it by the labels'
    probabilities, and which rows are the least certain.

    Several jobs that ran the same rows are set against each other, as `endmark compare` does. JOB is an id, the
    beginning of one, or `latest`. The page needs no network.
    """
    if output is not None:
        check_page(output)
    elif not json_wanted:
        raise UsageError(
            "there is no page to write", hint="add `-o report.html`, or `--json` for the figures alone"
        )
    with opened() as (_, store):
        labelled = _labelled(store, [resolve_job(store, job) for job in jobs])
        name = load_job(store, next(iter(labelled.values()))).name
        made = build_report(store, labelled, title=f"How {name} ended")
        unfinished = [job for job in labelled.values() if not job_status(store, job).state.is_final]
    if output is not None:
        write_report(made, output)
    click.echo(strict_json(figures(made)) if json_wanted else table(made))
    for job in unfinished:
        note(f"job {job} has not ended; its rows so far are counted")
    if output is not None:
        note(f"report: {output}")


def _labelled(store: Store, ids: list[str]) -> dict[str, str]:
    """Return the jobs by what tells them apart."""
    labels: dict[str, str] = {}
    for job_id in dict.fromkeys(ids):
        spec = load_job(store, job_id).spec
        label = "; ".join(map(str, spec.strategies))
        if spec.adapter is not None:
            label += f" + {Path(spec.adapter).name}"
        labels[label if label not in labels else f"{label} ({job_id})"] = job_id
    return labels
