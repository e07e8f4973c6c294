"""`endmark doctor`: why would this model not stop? The work is done in a process that may load the model."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from endmark.cli.beforehand import check_folders
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.options import (
    adapter_base_option,
    adapter_folder,
    model_name,
    template_arg_option,
    thinking_marks_option,
)
from endmark.cli.pages.doctor import write_page
from endmark.cli.pages.findings import print_table
from endmark.cli.pages.gathering import check_page
from endmark.cli.sampling import sampling_options
from endmark.cli.terminal import note
from endmark.jobs.launch.interpreter import module_command
from endmark.jobs.outputs import written
from endmark.jobs.sampling import TABLE
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.strict_json import strict_json


@click.command(
    "doctor",
    short_help="Say why a model would not stop, with the evidence and the fix.",
    epilog="""\b
Examples:
  endmark doctor meta-llama/Llama-2-7b-chat-hf -o report.html
  endmark doctor ./my-model --dataset prompts.csv --temperature 0.1 --json
  endmark doctor --trace trace.jsonl -o curves.html""",
)
@click.argument("model", required=False)
@click.option("--dataset", metavar="FILE", help="Prompts to try (CSV, JSONL, …); without it, built-in questions.")
@click.option("--trace", metavar="FILE", help="Look at a job that has run: what `endmark export --trace` wrote.")
@click.option("--adapter", metavar="DIR", help="An adapter made by `endmark finetune`.")
@adapter_base_option
@engine_options
@click.option("--rows", type=int, metavar="N", help="The most prompts to run (24).")
@click.option("--max-new-tokens", type=int, metavar="N", help="The token budget of each answer (256).")
@sampling_options
@click.option("--system", metavar="TEXT", help="A system turn before every prompt.")
@click.option("--prompt-column", metavar="NAME", help="The dataset's column of prompts (`prompt`).")
@click.option("--template", metavar="TEXT", help="A prompt made of columns: “Summarise: {text}”.")
@template_arg_option
@thinking_marks_option
@click.option("--raw", is_flag=True, help="Send the prompts as they are, without the chat template.")
@click.option(
    "--compare-precision", is_flag=True, help="Also answer the prompts in 16 bits, to tell what 4 bits change."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("-o", "--output", metavar="FILE", help="Also write a page with the EOS-probability curves (HTML).")
def doctor(model: str | None, **options: Any) -> None:  # noqa: ANN401
    """Say in plain words why MODEL (a hub id or a folder) would not stop, with the evidence and the fix.

    A small sample of prompts is run with no strategy, and the EOS probability of every step is kept. With
    `--trace` nothing is run: the rows are those of a job.
    """
    as_json, output = options.pop("as_json"), options.pop("output")
    template_args = [f"--template-arg={text}" for text in options.pop("template_args")]
    if output is not None:
        check_page(output)
    engine = take_engine(options, here=options["trace"] is None).words()
    if options["trace"] is None:
        whole = DEMO_MODEL if model is None else model_name(model)
        check_folders(whole, adapter_folder(options["adapter"], whole))
    result = _examined([*_arguments(model, options), *template_args, *engine])
    if output is not None:
        with written(Path(output)) as file:
            file.write(write_page(result))
        note(f"report: {output}")
    if as_json:
        click.echo(strict_json(result, indent=2))
    else:
        print_table(result, Console(file=sys.stdout))


def _examined(arguments: list[str]) -> dict[str, Any]:
    """Return what the doctor's process finds; where it finds nothing out, end as it ended: it has told why."""
    process = subprocess.Popen(module_command("endmark.worker.doctor", *arguments), stdout=subprocess.PIPE)
    try:
        printed, _ = process.communicate()
        code = process.returncode
    except KeyboardInterrupt:
        # The terminal has sent the signal to both; one sent to this process alone is passed on.
        process.send_signal(signal.SIGINT)
        process.communicate()
        code = 130
    if code:
        sys.exit(code if code > 0 else 128 - code)
    result: dict[str, Any] = json.loads(printed)
    return result


def _arguments(model: str | None, options: dict[str, Any]) -> list[str]:
    """Return the options that were given as they are written on the command line."""
    written = [] if model is None else [model]
    kinds = {item.name: item.kind for item in TABLE}
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            written.append(option)
        elif value is not None and value is not False:
            written.append(f"{option}={kinds[name].write(value) if name in kinds else value}")
    return written
