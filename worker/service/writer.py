"""The thread that stores finished attempts, in small batches, each under its shard's fence."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from endmark.db.attempts import commit
from endmark.db.connection import Store
from endmark.db.shards import finish
from endmark.jobs.errors import LeaseLost, StoreError
from endmark.jobs.vocabulary import FinishReason, Outcome
from endmark.worker.engine.request import Finished, Request
from endmark.worker.service.in_flight import InFlight, ShardRun
from endmark.worker.service.meter import Meter
from endmark.worker.service.prompting import Prompter

_BATCH = 32  # a commit begins when a shard has this many outcomes,
_BATCH_MOST = 64  # takes at most this many,
_OLDEST = 0.5  # and does not let one wait for longer than this many seconds
_RETRY_FIRST, _RETRY_MOST = 0.5, 10.0  # seconds between tries while the database is away

log = logging.getLogger(__name__)


class Writer:
    """Takes what the engine finishes; stores rows whose last attempt has ended, sends the others back.

    Args:
        store: the ledger.
        in_flight: the shards held by this process.
        prompter: makes the prompt of an attempt that follows another.
        submit: hands such an attempt to the engine.
        lost: called with a shard whose lease another worker holds now.
        meter: counts the rows that are stored.
    """

    def __init__(
        self,
        store: Store,
        in_flight: InFlight,
        prompter: Prompter,
        submit: Callable[[Sequence[Request]], None],
        lost: Callable[[ShardRun], None],
        meter: Meter | None = None,
    ) -> None:
        self._store = store
        self._in_flight = in_flight
        self._prompter = prompter
        self._submit = submit
        self._lost = lost
        self._meter = meter or Meter()
        self._finished: queue.SimpleQueue[Sequence[Finished] | None] = queue.SimpleQueue()
        self._buffers: dict[ShardRun, list[tuple[int, Outcome]]] = {}
        self._oldest = 0.0  # when the oldest outcome in the buffers came
        self._gone = threading.Event()  # no time is left for a database that does not answer
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def deliver(self, finished: Sequence[Finished]) -> None:
        """Take attempts that have ended; never blocks."""
        self._finished.put(finished)

    def stop(self, timeout: float) -> None:
        """Store what has been delivered and end, within `timeout` seconds."""
        self._finished.put(None)
        self._thread.join(timeout)
        self._gone.set()
        self._thread.join()

    def _run(self) -> None:
        """Collect outcomes and commit them when they are many or old."""
        while True:
            wait = max(0.0, self._oldest + _OLDEST - time.monotonic()) if self._buffers else None
            try:
                batch = self._finished.get(timeout=wait)
            except queue.Empty:
                self._flush(1)
                continue
            if batch is None:
                self._flush(1)
                return
            for finished in batch:
                self._take(finished)
            self._flush(1 if time.monotonic() - self._oldest > _OLDEST else _BATCH)

    def _take(self, finished: Finished) -> None:
        """Buffer a row's outcome, or send the row back to the engine for another attempt."""
        found = self._in_flight.find(finished.key)
        if found is None:
            return  # its lease was lost meanwhile
        shard, run = found
        # A further attempt for which the context has no room left is none: the row stays as it was.
        refused = finished.verdict.finish_reason is FinishReason.ERROR and bool(run.attempts)
        if not refused:
            run.conclude(finished)
            again = run.next_request(finished, finished.key, self._prompter)
            if again is not None:
                self._submit([again])
                return
        if not self._buffers:
            self._oldest = time.monotonic()
        self._buffers.setdefault(shard, []).append((finished.key, run.outcome()))

    def _flush(self, least: int) -> None:
        """Commit the buffers that hold at least that many outcomes, or their shard's last."""
        for shard, buffer in list(self._buffers.items()):
            while len(buffer) >= least or (buffer and len(buffer) == len(shard.keys)):
                part, buffer[:] = buffer[:_BATCH_MOST], buffer[_BATCH_MOST:]
                if not self._store_part(shard, part):
                    buffer.clear()
            if not buffer:
                del self._buffers[shard]

    def _store_part(self, shard: ShardRun, part: list[tuple[int, Outcome]]) -> bool:
        """Commit outcomes of one shard, finishing it with its last; return whether it is still held."""
        try:
            outcomes = [outcome for _, outcome in part]
            self._persist(shard, lambda: commit(self._store, shard.lease, outcomes))
            self._meter.stored(outcomes)
            if self._in_flight.settle(shard, [key for key, _ in part]):
                self._persist(shard, lambda: finish(self._store, shard.lease))
                self._in_flight.close(shard)
                log.info("%s: done in %.1f s", shard, time.monotonic() - shard.began)
        except LeaseLost:
            self._lost(shard)
            return False
        return True

    def _persist(self, shard: ShardRun, write: Callable[[], None]) -> None:
        """Write to the ledger, again and again while it cannot be reached.

        Raises:
            LeaseLost: another worker holds the shard now, or the process must end before the ledger is back.
        """
        wait = _RETRY_FIRST
        while True:
            try:
                return write()
            except StoreError as error:
                log.warning("%s: cannot store its rows, trying again: %s", shard, error)
                if self._gone.wait(wait):
                    raise LeaseLost("the process ends") from error
                wait = min(2 * wait, _RETRY_MOST)
