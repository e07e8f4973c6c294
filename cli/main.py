"""The `endmark` command: its table of commands, each imported when it is called, and the one error boundary."""

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import click

from endmark.cli.failures import report

# In the order of the help. Their modules cost up to a second to import, so the help has its own short texts.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("endmark.cli.run:run", "Run a dataset: submit, work, wait, export."),
    "ask": ("endmark.cli.ask:ask", "Answer one prompt."),
    "submit": ("endmark.cli.submit:submit", "Store a dataset as a job for workers to run."),
    "status": ("endmark.cli.status:status", "Show how far the jobs are, or one job."),
    "export": ("endmark.cli.export:export", "Write a job's rows with their results to a file."),
    "report": ("endmark.cli.report:report", "Show how a job's answers ended, as a page."),
    "compare": (
        "endmark.cli.compare:compare",
        "Run the same rows under several strategies, and say which to take.",
    ),
    "estimate": ("endmark.cli.estimate:estimate", "Run a sample of a dataset, and say what the whole would take."),
    "cancel": ("endmark.cli.control:cancel", "End a job; what is done is kept."),
    "pause": ("endmark.cli.control:pause", "Stop a job, to be resumed."),
    "resume": ("endmark.cli.control:resume", "Let a paused or interrupted job go on."),
    "retry": ("endmark.cli.retry:retry", "Retry truncated or failed rows of an ended job."),
    "delete": ("endmark.cli.deletion:delete", "Delete an ended job with its rows and results."),
    "prune": ("endmark.cli.deletion:prune", "Delete jobs that ended long ago."),
    "worker": ("endmark.cli.worker:worker", "Run the jobs of one model, a process for each GPU."),
    "serve": ("endmark.cli.serve.command:serve", "Serve the OpenAI Batch API over the same jobs."),
    "web": ("endmark.cli.web.command:web", "Show the jobs in a browser, on this machine alone."),
    "finetune": ("endmark.cli.finetune:finetune", "Train an adapter on answers that end with EOS."),
    "doctor": ("endmark.cli.doctor:doctor", "Say why a model would not stop, with the evidence and the fix."),
    "check": ("endmark.cli.check:check", "Tell what this machine can do, with fixes."),
    "strategies": ("endmark.cli.strategies:strategies", "List the strategies with their parameters."),
    "db": ("endmark.cli.database:db", "Look after the database."),
}


class CommandTable(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, or refuse with the nearest name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from endmark.jobs.errors import UsageError
            from endmark.jobs.spelling import nearest

            raise UsageError(f"no command `{name}`", hint=nearest(name, COMMANDS, "`endmark --help` lists them"))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing what it names."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  endmark run prompts.csv -o results.csv
  endmark run prompts.csv -o results.csv --model meta-llama/Llama-2-7b-chat-hf --strategy whole
  endmark submit prompts.csv; endmark worker & endmark status --watch

\b
Settings: ENDMARK_DATABASE_URL, ENDMARK_BROKER_URL, ENDMARK_HOME.
Exit codes: 0 done, 1 error, 2 usage, 3 finished with failed rows, 130 interrupted.""",
)
@click.version_option(package_name="endmark", message="%(prog)s %(version)s")
def endmark() -> None:
    """Run prompt batches through a 4-bit language model, make answers end on purpose, record how each ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    _fill_streams()
    atexit.register(gc.freeze)  # or the interpreter's end goes through all objects: a tenth of a short command
    try:
        code = endmark.main(
            list(arguments) if arguments is not None else None, prog_name="endmark", standalone_mode=False
        )
    except Exception as error:
        if os.environ.get("ENDMARK_DEBUG") and not isinstance(error, click.ClickException):
            raise
        return report(error)
    return code if isinstance(code, int) else 0


def _fill_streams() -> None:
    """Put /dev/null where who started us has closed a stream: the next file to be opened would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, os.O_RDWR)
            if file != number:
                os.dup2(file, number)
                os.close(file)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
