"""A fine-tuning in a worker: stored, announced to the workers, watched to its end."""

import time

from endmark.cli.beforehand import check_broker
from endmark.cli.crew import Crew
from endmark.cli.notifying import wake_workers
from endmark.cli.session import opened
from endmark.cli.terminal import note
from endmark.cli.training_progress import Show, training_progress
from endmark.db.connection import Store
from endmark.db.finetunings import FinetuneStatus, add_finetuning, cancel_finetuning, finetuning_status
from endmark.jobs.errors import EndmarkError, Interrupted
from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.jobs.spec import GenerationSpec

_POLL = 0.3  # seconds between looks
_WORKER_AWAY = 60.0  # seconds without a worker; one that makes room for the training is away for a few


def train_in_worker(spec: FinetuneSpec) -> None:
    """Let a worker of the model train, one of its own being started if none runs; show how far it is.

    Raises:
        Interrupted: the user has ended it.
        EndmarkError: the training has failed.
    """
    with opened() as (settings, store):
        check_broker(settings, needed=True)
        finetuning = add_finetuning(store, spec)
        note(f"fine-tuning {finetuning}")
        try:
            with Crew(settings, store, GenerationSpec(model=spec.model)) as crew, training_progress() as show:
                # Once: a worker that starts later looks for itself, as all do every few seconds.
                wake_workers(store, crew.broker_url, spec.model, None)
                _wait(store, finetuning, crew, show)
        except KeyboardInterrupt:
            cancel_finetuning(store, finetuning)
            raise Interrupted(
                "the training is stopped", hint="the same command goes on with it from the last checkpoint"
            ) from None
        except EndmarkError:
            cancel_finetuning(store, finetuning)
            raise


def _wait(store: Store, finetuning: str, crew: Crew, show: Show) -> None:
    """Show the progress until the fine-tuning has ended.

    Raises:
        EndmarkError: it has failed, or the worker that was started has.
    """
    shown = 0
    served_at = time.monotonic()
    while True:
        alive = crew.alive  # asked first: a worker may end right after its work
        status = finetuning_status(store, finetuning)
        if status.progress is not None:
            show(status.progress.without_notes(shown))
            shown = len(status.progress.notes)
        if status.is_final:
            return _raise_failure(status)
        if not alive:
            raise crew.failure()
        now = time.monotonic()
        if not status.due or crew.served():
            served_at = now
        elif now - served_at > _WORKER_AWAY:
            crew.look_after(served=False)
        time.sleep(_POLL)


def _raise_failure(status: FinetuneStatus) -> None:
    """Raise what the worker has said, if it has failed."""
    if status.state == "cancelled":
        raise EndmarkError("the training was cancelled")
    if status.error is not None:
        error = EndmarkError(status.error["message"], hint=status.error["hint"])
        error.exit_code = int(status.error["code"])
        raise error
