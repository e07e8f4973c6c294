"""`endmark doctor`: why would this model not stop? The work is done in a process that may load the model."""

import signal
import subprocess
import sys
from typing import Any

import click

from endmark.cli.options import adapter_base_option
from endmark.jobs.launch.interpreter import module_command


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
@click.option("--rows", type=int, metavar="N", help="The most prompts to run (24).")
@click.option("--max-new-tokens", type=int, metavar="N", help="The token budget of each answer (256).")
@click.option("--temperature", type=float, help="0 takes the best token; by default as the model's own settings.")
@click.option("--top-k", type=int, help="Keep this many tokens; 0 keeps all.")
@click.option("--top-p", type=float, help="Keep the most probable tokens of this mass.")
@click.option("--seed", type=int, help="Random seed (0).")
@click.option("--system", metavar="TEXT", help="A system turn before every prompt.")
@click.option("--prompt-column", metavar="NAME", help="The dataset's column of prompts (`prompt`).")
@click.option("--template", metavar="TEXT", help="A prompt made of columns: “Summarise: {text}”.")
@click.option("--raw", is_flag=True, help="Send the prompts as they are, without the chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("-o", "--output", metavar="FILE", help="Also write a page with the EOS-probability curves (HTML).")
def doctor(model: str | None, **options: Any) -> None:  # noqa: ANN401
    """Say in plain words why MODEL (a hub id or a folder) would not stop, with the evidence and the fix.

    A small sample of prompts is run with no strategy, and the EOS probability of every step is kept. With
    `--trace` nothing is run: the rows are those of a job.
    """
    process = subprocess.Popen(module_command("endmark.worker.doctor", *_arguments(model, options)))
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # The terminal has sent the signal to both; one sent to this process alone is passed on.
        process.send_signal(signal.SIGINT)
        process.wait()
        code = 130
    sys.exit(code if code >= 0 else 128 - code)


def _arguments(model: str | None, options: dict[str, Any]) -> list[str]:
    """Return the options that were given as they are written on the command line."""
    written = [] if model is None else [model]
    for name, value in options.items():
        option = "--json" if name == "as_json" else "--" + name.replace("_", "-")
        if value is True:
            written.append(option)
        elif value is not None and value is not False:
            written.append(f"{option}={value}")
    return written
