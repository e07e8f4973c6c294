"""`endmark submit`: store a dataset as a job and print its id."""

from typing import Any

import click

from endmark.cli.advice import worker_hint
from endmark.cli.beforehand import check_broker
from endmark.cli.finishing import finish_options, wanted_deliveries
from endmark.cli.notifying import wake_if_reachable
from endmark.cli.options import build_spec, spec_options
from endmark.cli.progress import counting
from endmark.cli.session import opened
from endmark.cli.submission import submit_dataset
from endmark.cli.terminal import hint, note
from endmark.db.workers import list_workers
from endmark.jobs.spelling import counted


@click.command(
    short_help="Store a dataset as a job for workers to run.",
    epilog="""\b
Examples:
  endmark submit prompts.csv --model meta-llama/Llama-2-7b-chat-hf --strategy whole
  job=$(endmark submit articles.jsonl --template "Summarise: {text}" --max-new-tokens 120)
  zcat prompts.jsonl.gz | endmark submit - --name nightly""",
)
@click.argument("dataset")
@spec_options
@finish_options
def submit(dataset: str, **options: Any) -> None:  # noqa: ANN401
    """Check every row of DATASET (CSV or JSONL; `-` is standard input) and store it as a job.

    The job's id is printed, alone, on standard output. Workers run the job: `endmark worker`. Nothing is stored
    if a row cannot be used.
    """
    spec = build_spec(options)
    with opened() as (settings, store):
        check_broker(settings)
        wanted = wanted_deliveries(settings, options)
        with counting("checked and stored") as on_progress:
            job = submit_dataset(store, dataset, spec, options, deliveries=wanted, on_progress=on_progress)
        click.echo(job.job_id)
        note(f"{counted(job.total, 'row')} stored as job {job.job_id}")
        wake_if_reachable(settings, store, *job.spec.queue)
        if not any((item.model, item.adapter) == spec.queue for item in list_workers(store)):
            hint(worker_hint(spec.model, spec.adapter))
