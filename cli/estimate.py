"""`endmark estimate`: what a dataset would take, from a sample of it that is run."""

from dataclasses import asdict
from typing import Any

import click

from endmark.cli.advice import resume_command
from endmark.cli.beforehand import check_broker, check_folders
from endmark.cli.completion import see_through
from endmark.cli.drawing import draw, store_sample
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.options import build_spec, spec_options
from endmark.cli.pricing import price_option
from endmark.cli.progress import counting
from endmark.cli.projection import project, told
from endmark.cli.session import opened
from endmark.cli.submission import dataset_name
from endmark.cli.terminal import hint, note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.db.summaries import token_sums
from endmark.jobs.errors import EndmarkError
from endmark.jobs.spelling import counted
from endmark.jobs.strict_json import strict_json


@click.command(
    short_help="Run a sample of a dataset, and say what the whole would take.",
    epilog="""\b
Examples:
  endmark estimate prompts.csv --model meta-llama/Llama-2-7b-chat-hf --strategy whole
  endmark estimate prompts.csv --sample 500 --price-per-gpu-hour 2.50 --json""",
)
@click.argument("dataset")
@click.option(
    "--sample", type=click.IntRange(min=2), default=100, show_default=True, help="Rows to run, drawn from DATASET."
)
@price_option
@click.option("--json", "json_wanted", is_flag=True, help="Print a JSON object.")
@spec_options
@engine_options
def estimate(dataset: str, sample: int, price: float | None, json_wanted: bool, **options: Any) -> None:  # noqa: ANN401
    """Run a sample of DATASET as a job, and project tokens, time and cost of the whole, with 95 % intervals.

    Time is at the speed of the sample; with a thousand rows and more a card is fuller, and faster, than with a
    hundred. The job stays, like any other.
    """
    engine = take_engine(options)
    spec = build_spec(options)
    with opened() as (settings, store), ended_like_by_ctrl_c():
        check_broker(settings, needed=True)
        check_folders(*spec.queue)
        with counting("checked") as on_progress:
            drawn = draw(dataset, spec, sample, options, on_progress)
        job = store_sample(store, drawn, spec, f"{options['name'] or dataset_name(dataset)}: estimate")
        note(f"job {job.job_id}: {counted(job.total, 'row')} of {drawn.whole:,}")
        again = resume_command(job.job_id, "-", engine.words())
        status = see_through(settings, store, job, f"`{again}` goes on with it", engine)
        sums = token_sums(store, job.job_id)
        if not sums.completion_tokens:
            raise EndmarkError(
                "no row of the sample has an answer", hint=f"`endmark status {job.job_id}` says why"
            )
        found = project(
            sums,
            rows=drawn.whole,
            tokens_per_second=status.tokens_per_second,
            devices=max(1, len(status.workers)),
            price=price,
        )
    click.echo(strict_json({"job": job.job_id, **asdict(found)}) if json_wanted else told(found, price))
    if not json_wanted:
        hint(f"`endmark export {job.job_id} -o FILE` has the answers of the sample")
