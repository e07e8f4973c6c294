"""`endmark finetune`: train an adapter on answers that end with EOS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from endmark.cli.options import Command, model_name
from endmark.cli.training_progress import training_progress
from endmark.jobs.errors import Interrupted, UsageError
from endmark.jobs.finetuning.chats import read_chats
from endmark.jobs.finetuning.request import LEARN_ANSWER, FinetuneSpec
from endmark.jobs.launch.finetunings import check_extra, run_finetuning
from endmark.jobs.settings import Settings

_DEFAULT = FinetuneSpec(dataset="-", output="-")


def _number(option: str, field: str, help: str) -> Callable[[Command], Command]:
    """Return an option for one of the spec's numbers."""
    value = getattr(_DEFAULT, field)
    return click.option(option, field, type=type(value), default=value, show_default=True, help=help)


def _list(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """List the fine-tunings instead of training."""
    del parameter
    if wanted and not context.resilient_parsing:
        from endmark.cli.finetune_ledger import show_finetunings

        show_finetunings()
        context.exit()


def _cancel(context: click.Context, parameter: click.Parameter, wanted: str | None) -> None:
    """Cancel a fine-tuning instead of training."""
    del parameter
    if wanted is not None and not context.resilient_parsing:
        from endmark.cli.finetune_ledger import cancel_named

        cancel_named(wanted)
        context.exit()


@click.command(
    "finetune",
    short_help="Train an adapter on answers that end with EOS.",
    epilog="""\b
Examples:
  endmark finetune examples/finetune.jsonl -o my-adapter --here
  endmark finetune --list; endmark finetune --cancel 5f0c2a
  endmark finetune guanaco.jsonl -o guanaco-adapter --model meta-llama/Llama-2-7b-hf --packing
  endmark run prompts.csv -o results.csv --model meta-llama/Llama-2-7b-hf --adapter guanaco-adapter""",
)
@click.argument("dataset")
@click.option("-o", "--output", required=True, metavar="DIR", help="The adapter's folder; it must be new.")
@click.option("--model", metavar="MODEL", help="Hub id or folder.  [default: the bundled demo model]")
@_number("--steps", "steps", "Steps of the optimiser.")
@_number("--rank", "rank", "Rank of the adapter's matrices.")
@_number("--alpha", "alpha", "The adapter counts with alpha / rank.")
@_number("--dropout", "dropout", "Share of the adapter's inputs left out in training.")
@_number("--learning-rate", "learning_rate", "Its highest value, reached after 3 % of the steps.")
@_number("--batch-size", "batch_size", "Sequences at once.")
@_number("--accumulate", "accumulate", "Batches a step.")
@_number("--max-length", "max_length", "Tokens of a sequence; a longer answer is cut and gets no EOS.")
@click.option(
    "--learn",
    type=click.Choice(["all", LEARN_ANSWER]),
    default="all",
    show_default=True,
    help="Of an example with a thought: thought and answer, or the answer alone.",
)
@click.option("--packing", is_flag=True, help="Put several short examples into one sequence.")
@_number("--seed", "seed", "Random seed of the split, the order and the adapter's first values.")
@_number("--held-out", "held_out", "Examples kept for the evaluation, at most a fifth.")
@_number("--max-new-tokens", "max_new_tokens", "Token budget of an answer in the evaluation.")
@_number("--save-every", "save_every", "Steps between checkpoints.")
@click.option(
    "--prompt-column", default="prompt", show_default=True, metavar="NAME", help="The column of prompts."
)
@click.option("--answer-column", metavar="NAME", help="The column of answers.  [default: `answer`, `response`, …]")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="List the fine-tunings of workers, and end.",
)
@click.option(
    "--cancel",
    metavar="ID",
    is_eager=True,
    expose_value=False,
    callback=_cancel,
    help="Cancel the fine-tuning of this id, and end.",
)
@click.option("--here", is_flag=True, help="Train beside this command, without queue, worker and database.")
def finetune(dataset: str, output: str, here: bool, model: str | None, **options: Any) -> None:  # noqa: ANN401
    """Train a LoRA adapter on DATASET over the model in 4 bits (QLoRA), so that it learns to end its answers.

    DATASET is JSONL of chats (`messages`), CSV of prompts and answers, or text of the form
    `### Human: … ### Assistant: …`. The adapter's folder is printed on standard output; it also holds the
    tokeniser, a manifest, the loss curve, and an evaluation on held-out prompts before and after. Called again,
    a run that was killed goes on from its last checkpoint.
    """
    check_extra()
    spec = FinetuneSpec(
        dataset=_existing(dataset),
        output=str(Path(output).expanduser().absolute()),
        model=model_name(model),
        **options,
    )
    # Read here too, so that bad rows are told at once and before anything is stored.
    read_chats(spec.dataset, prompt_column=spec.prompt_column, answer_column=spec.answer_column)
    if here:
        _train_here(Settings.load(), spec)
    else:
        from endmark.cli.finetune_queued import train_in_worker

        train_in_worker(spec)
    click.echo(spec.output)


def _existing(dataset: str) -> str:
    """Return the dataset's whole path, as the process that trains needs it.

    Raises:
        UsageError: it is standard input; whatever else is wrong is told when it is read.
    """
    if dataset == "-":
        raise UsageError(
            "a dataset to train on cannot be standard input", hint="it is read again to go on: give a file"
        )
    return str(Path(dataset).absolute())


def _train_here(settings: Settings, spec: FinetuneSpec) -> None:
    """Train in a child of this process."""
    try:
        with training_progress() as show:
            run_finetuning(settings, spec, show)
    except KeyboardInterrupt:
        raise Interrupted(
            "the training is stopped", hint="the same command goes on with it from the last checkpoint"
        ) from None
