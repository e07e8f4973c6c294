"""A worker makes room for a fine-tuning: drained, its process becomes the one that trains, then a worker again.

The process image is replaced, so that the GPU's memory is free for the training, and the supervisor sees one
child all along.
"""

import logging
import os
import signal
import sys

from endmark.db.connection import Store
from endmark.db.finetunings import due_finetuning
from endmark.jobs.engines import VLLM
from endmark.jobs.launch.interpreter import module_command
from endmark.jobs.launch.workers import WorkerOptions

log = logging.getLogger("worker")


class Handover:
    """What this process is to train next, if anything."""

    def __init__(self) -> None:
        self.finetuning: str | None = None  # its id
        self._store: Store | None = None
        self._model = ""

    def offer(self, store: Store, options: WorkerOptions) -> bool:
        """Look for fine-tunings from now on; return whether one is due already, with no model loaded yet.

        Raises:
            StoreError: the database cannot be used.
        """
        if options.adapter is not None or options.engine.name(options.weights) == VLLM:
            return False  # fine-tunings are of base models; vLLM's processes would keep the memory of their cards
        self._store, self._model = store, options.model
        self.finetuning = due_finetuning(store, options.model)
        return self.finetuning is not None

    def withdraw(self) -> None:
        """Look for no fine-tunings any more."""
        self._store = None

    def look(self) -> None:
        """Drain the worker if there is a fine-tuning that no worker has taken.

        Raises:
            StoreError: the database cannot be used.
        """
        if self._store is None or self.finetuning is not None:
            return
        self.finetuning = due_finetuning(self._store, self._model)
        if self.finetuning is not None:
            log.info("making room for fine-tuning %s", self.finetuning)
            os.kill(os.getpid(), signal.SIGTERM)

    def execute(self, launch: str) -> None:
        """Become the process that trains, if there is something to train; `launch` is what started the worker."""
        if self.finetuning is not None:
            become("endmark.worker.finetune.queued", self.finetuning, launch)


HANDOVER = Handover()  # of this process, as its signals are


def become(module: str, *words: str) -> None:
    """Replace this process by another module's; does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, module_command(module, *words))  # noqa: S606
