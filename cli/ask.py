"""`endmark ask`: one prompt in, its answer out."""

import sys
from typing import Any

import click

from endmark.cli.advice import resume_command
from endmark.cli.beforehand import check_broker, check_folders
from endmark.cli.completion import see_through
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.options import answer_options, build_spec, with_defaults
from endmark.cli.session import opened
from endmark.cli.submission import submit_rows
from endmark.cli.submit import submit
from endmark.cli.terminal import note, one_line, printable
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.db.export.stream import COLUMNS, stream_results
from endmark.jobs.datasets.rows import RowsDataset
from endmark.jobs.errors import EndmarkError, UsageError
from endmark.jobs.spelling import counted
from endmark.jobs.strict_json import strict_json
from endmark.jobs.vocabulary import JobState

_NO_ANSWER = 3  # exit code


@click.command(
    short_help="Answer one prompt.",
    epilog="""\b
Examples:
  endmark ask "What can I do in Paris?" --strategy whole
  cat letter.txt | endmark ask - --system "Answer politely." --model ./my-model
  endmark ask "Name three rivers." --json | jq .ending""",
)
@click.argument("prompt")
@answer_options
@engine_options
@click.option("--json", "json_wanted", is_flag=True, help="Print the answer and its verdict as a JSON object.")
def ask(prompt: str, json_wanted: bool, **options: Any) -> int:  # noqa: ANN401
    """Answer PROMPT (`-` is standard input). Standard output has the text, standard error how it ended.

    It is a job of one row, kept like any other. A worker of the model that runs already answers at once; otherwise
    one is started, which loads the model first. Exits with 3 if the row failed.
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise UsageError("the prompt is empty", hint='give a text: `endmark ask "What can I do in Paris?"`')
    engine = take_engine(options)
    spec = build_spec(with_defaults(submit, options))
    with opened() as (settings, store), ended_like_by_ctrl_c():
        check_broker(settings, needed=True)
        check_folders(*spec.queue)
        with RowsDataset([text]) as dataset:
            job = submit_rows(store, dataset, spec, name=one_line(text, 40))
        again = resume_command(job.job_id, "-", engine.words())
        status = see_through(settings, store, job, f"`{again}` goes on with it", engine)
        if status.state is JobState.FAILED:
            raise EndmarkError(f"the prompt could not be run: {status.error}")
        (result,) = stream_results(store, job.job_id)
    verdict = dict(zip(COLUMNS, result.values, strict=True))
    if json_wanted:
        click.echo(strict_json({"job": job.job_id, **verdict}))
    elif verdict["error"] is None:
        answer = verdict["response"] or ""
        click.echo(printable(answer) if sys.stdout.isatty() else answer)
    note(_said(verdict))
    return _NO_ANSWER if verdict["error"] is not None else 0


def _said(verdict: dict[str, Any]) -> str:
    """Return how the answer ended, in words."""
    if verdict["error"] is not None:
        return f"failed: {verdict['error']}"
    whose = f" ({verdict['eos_source']})" if verdict["eos_source"] else ""
    whole = "complete" if verdict["complete"] else "not complete"
    thought = f", {verdict['reasoning_tokens']} of them thought" if verdict["reasoning_tokens"] else ""
    tokens = counted(verdict["completion_tokens"], "token")
    return f"{whole}: {verdict['finish_reason']}{whose}, ends with {verdict['ending']}, {tokens}{thought}"
