"""`endmark run`: a dataset in, a file of answers out; everything between starts and ends by itself."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import click

from endmark.cli.beforehand import check_broker, check_fields, check_folders
from endmark.cli.completion import complete
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.export import OUTPUT_HELP, STDOUT, check_output, parse_option, tell_left_out
from endmark.cli.finishing import finish_options, wanted_deliveries
from endmark.cli.options import build_spec, spec_options
from endmark.cli.progress import counting
from endmark.cli.session import opened
from endmark.cli.submission import Submission, resumed, submit_dataset
from endmark.cli.terminal import note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.db.connection import Store
from endmark.db.progress import job_status
from endmark.db.runs import find_run, remember_run
from endmark.jobs.remote import is_url, version_of
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import counted


@click.command(
    short_help="Run a dataset: submit, work, wait, export.",
    epilog="""\b
Examples:
  endmark run prompts.csv -o results.csv
  endmark run prompts.csv -o results.csv --model meta-llama/Llama-2-7b-chat-hf --max-new-tokens 500
  endmark run articles.jsonl -o out.jsonl --template "Summarise: {text}" --strategy whole
  endmark run chats.jsonl -o out.csv --strategy stop:text="###" --on-truncation continue""",
)
@click.argument("dataset")
@click.option("-o", "--output", required=True, metavar="FILE", help=OUTPUT_HELP)
@spec_options
@engine_options
@finish_options
@parse_option
@click.option("--new", is_flag=True, help="Make a new job, even if this run was interrupted before.")
def run(dataset: str, output: str, parse: bool, new: bool, **options: Any) -> int:  # noqa: ANN401
    """Run every prompt of DATASET (CSV or JSONL; `-` is standard input) and write the answers to a file.

    A broker and a worker are started if none run, and end with this command. Ctrl-C pauses the job, and the same
    command goes on with it: the same dataset, options and file. Exits with 3 if rows have failed.
    """
    check_output(output, dataset=dataset)
    engine = take_engine(options)
    spec = build_spec(options)
    tell_left_out(spec, output)
    with opened() as (settings, store), ended_like_by_ctrl_c():
        check_broker(settings, needed=True)
        check_folders(*spec.queue)
        key = _key(dataset, spec, output, options)
        job = None if new or key is None else _interrupted(store, key)
        if job is None:
            wanted = wanted_deliveries(settings, options)
            with counting("checked and stored") as on_progress:
                job = submit_dataset(
                    store,
                    dataset,
                    spec,
                    options,
                    deliveries=wanted,
                    check_columns=check_fields(spec) if parse else None,
                    on_progress=on_progress,
                )
            if key is not None:
                remember_run(store, key, job.job_id)
            note(f"job {job.job_id}: {counted(job.total, 'row')}")
        return complete(settings, store, job, output, parse=parse, engine=engine)


def _interrupted(store: Store, key: str) -> Submission | None:
    """Return the job of this same run, if its results have not been written yet, and say so."""
    job_id = find_run(store, key)
    if job_id is None:
        return None
    status = job_status(store, job_id)
    done = f"{status.succeeded + status.failed:,} of {status.total:,} rows done"
    note(f"going on with job {job_id} of the same dataset and options: {done}; `--new` makes a new job")
    return resumed(store, job_id)


def _key(dataset: str, spec: GenerationSpec, output: str, options: dict[str, Any]) -> str | None:
    """Return what tells a run from others: its rows, spec and output; None where they can be read only once."""
    digest = _digest(dataset)
    if digest is None:
        return None
    place = output if output == STDOUT or is_url(output) else os.path.realpath(output)
    given = [options[name] for name in ("name", "priority", "format", "delimiter", "skip_bad_rows")]
    return hashlib.sha256(json.dumps([digest, spec.to_json(), place, given]).encode()).hexdigest()


def _digest(dataset: str) -> str | None:
    """Return what tells the dataset's content; None where nothing does without reading it."""
    if is_url(dataset):
        return version_of(dataset)
    path = Path(dataset)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
