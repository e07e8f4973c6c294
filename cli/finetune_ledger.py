"""Fine-tunings that workers do: `endmark finetune --list` and `--cancel`."""

import click

from endmark.cli.session import opened
from endmark.cli.status_view import table
from endmark.cli.terminal import note, one_line
from endmark.db.finetunings import FinetuneEntry, cancel_finetuning, list_finetunings, resolve_finetuning
from endmark.jobs.errors import JobStateError
from endmark.jobs.spelling import age

_WIDTH = 40  # of a dataset, a folder, a model
_HEADINGS = ("FINE-TUNING", "STATE", "STEP", "AGE", "MODEL", "DATASET", "OUTPUT", "WORKER")


def show_finetunings() -> None:
    """Print the fine-tunings in the ledger, the newest first."""
    with opened() as (_, store):
        found = list_finetunings(store)
    if found:
        click.echo(table(_HEADINGS, [_cells(item) for item in found]))
    else:
        note("no fine-tunings yet")


def cancel_named(wanted: str) -> None:
    """End a fine-tuning; its checkpoints stay.

    Args:
        wanted: its id, or the beginning of one.

    Raises:
        JobNotFound: there is none, or more than one.
        JobStateError: it has ended.
    """
    with opened() as (_, store):
        finetuning = resolve_finetuning(store, wanted)
        if not cancel_finetuning(store, finetuning):
            raise JobStateError(
                f"fine-tuning `{finetuning}` has ended already", hint="`endmark finetune --list` shows how"
            )
    note(f"fine-tuning {finetuning} is cancelled; its last checkpoint stays in its output folder")


def _cells(item: FinetuneEntry) -> tuple[str, ...]:
    """Return the cells of one fine-tuning; why it failed stands beside its state."""
    step = f"{item.progress.step:,}/{item.progress.steps:,}" if item.progress is not None else "–"
    why = f": {one_line(item.message, _WIDTH)}" if item.message else ""
    spec = (item.spec.model, item.spec.dataset, item.spec.output) if item.spec is not None else ("–",) * 3
    return (
        item.id,
        f"{item.state}{why}",
        step,
        age(item.age),
        *(one_line(text, _WIDTH) for text in spec),
        one_line(item.worker or "–"),
    )
