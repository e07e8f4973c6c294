"""`python -m endmark.worker.finetune.queued ID LAUNCH`: a worker that has become what trains, then one again."""

import logging
import os
import signal
import socket
import sys
import time
from dataclasses import replace

from endmark.db.connection import Store, open_store
from endmark.db.finetunings import (
    FinetuneLease,
    claim_finetuning,
    end_finetuning,
    release_finetuning,
    report_finetuning,
)
from endmark.db.workers import remove_worker, report_worker
from endmark.jobs.errors import EndmarkError, LeaseLost, StoreError
from endmark.jobs.finetuning.request import FinetuneProgress
from endmark.jobs.launch.finetunings import check_extra, run_finetuning
from endmark.jobs.launch.workers import Launch
from endmark.jobs.progress import WorkerReport
from endmark.jobs.settings import Settings
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.process.parent import when_parent_ends
from endmark.worker.process.periodic import Periodic
from endmark.worker.service.handover import become

_HEARTBEAT = 15.0
_TOLD_EVERY = 1.0  # seconds between writes of the progress

log = logging.getLogger("worker")


def main(finetuning: str, line: str) -> None:
    """Train if the fine-tuning is still due; then become a worker again, or end if told to."""
    launch = Launch.from_json(line)
    log_to_stderr(f"training:{os.getpid()}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if launch.with_parent:
        when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    settings = Settings.load()
    try:
        with open_store(settings.database_url) as store:
            ended = _take_and_train(settings, store, finetuning, launch)
    except EndmarkError as error:
        log.error("fine-tuning %s: %s", finetuning, error)
        ended = False
    if not ended:
        become("endmark.worker.service.app", line)


def _take_and_train(settings: Settings, store: Store, finetuning: str, launch: Launch) -> bool:
    """Claim the fine-tuning and see it through; return whether this process was told to end."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    model = launch.options.model
    lease = claim_finetuning(store, finetuning, model=model, worker=name)
    if lease is None:
        return False
    identity = WorkerReport(name, launch.device, model, None, "training", 0.0)
    training = _Told(store, lease, identity)
    beat = Periodic("heartbeat", _HEARTBEAT, training.beat)
    beat.start()
    log.info("fine-tuning %s: training %s into %s", lease.id, model, lease.spec.output)
    try:
        _train(settings, store, lease, training)
    except KeyboardInterrupt:
        if training.lost:
            log.warning("fine-tuning %s: cancelled, or taken by another worker", lease.id)
            return False
        release_finetuning(store, lease)
        log.info("fine-tuning %s: released", lease.id)
        return True
    finally:
        beat.stop()
        remove_worker(store, name)
    return False


def _train(settings: Settings, store: Store, lease: FinetuneLease, training: "_Told") -> None:
    """Run the training and close the fine-tuning, whatever came of it."""
    try:
        check_extra()
        run_finetuning(settings, lease.spec, training.tell)
    except EndmarkError as error:
        log.error("fine-tuning %s: %s", lease.id, error)
        end_finetuning(store, lease, {"message": str(error), "hint": error.hint, "code": error.exit_code})
    else:
        training.beat()
        end_finetuning(store, lease, None)
        log.info("fine-tuning %s: done", lease.id)


class _Told:
    """The progress as the ledger is told it; its notes are kept together, so that none is missed."""

    def __init__(self, store: Store, lease: FinetuneLease, identity: WorkerReport) -> None:
        self._store = store
        self._lease = lease
        self._identity = identity
        self._progress: FinetuneProgress | None = None
        self._told_at = 0.0
        self.lost = False

    def tell(self, progress: FinetuneProgress) -> None:
        """Take the newest progress, and store it if the last was a while ago."""
        before = self._progress.notes if self._progress is not None else ()
        self._progress = replace(progress, notes=(*before, *progress.notes))
        if progress.notes or time.monotonic() - self._told_at > _TOLD_EVERY:
            try:
                self.beat()
            except StoreError as error:  # the heartbeat tries again
                log.warning("cannot store the progress: %s", error)

    def beat(self) -> None:
        """Store the progress, prolong the lease, and report the worker; stop the training if the lease is lost."""
        self._told_at = time.monotonic()
        try:
            report_finetuning(self._store, self._lease, self._progress)
            report_worker(self._store, self._identity)
        except LeaseLost:
            if not self.lost:
                self.lost = True
                os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
