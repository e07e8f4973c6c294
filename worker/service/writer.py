"""The thread that stores finished attempts, in small batches, each under its shard's fence."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from endmark.db.attempts import commit
from endmark.db.connection import Store
from endmark.db.failures import refuses_values
from endmark.db.shards import finish
from endmark.jobs.errors import LeaseLost, StoreError
from endmark.jobs.launch.lives import LifeFile, Stage
from endmark.jobs.vocabulary import FinishReason, Outcome
from endmark.worker.engine.request import Finished, Request
from endmark.worker.process.guarded import Broken, Guarded
from endmark.worker.process.traces import described
from endmark.worker.service.in_flight import InFlight, ShardRun
from endmark.worker.service.meter import Meter
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.rows import RowRun, unstorable

_BATCH = 32  # a commit begins when a shard has this many outcomes,
_BATCH_MOST = 256  # takes at most this many, as it does where they came faster than they were stored,
_OLDEST = 0.5  # and does not let one wait for longer than this many seconds
_RETRY_FIRST, _RETRY_MOST = 0.5, 10.0  # seconds between tries while the database is away

_Keyed = tuple[int, Outcome]
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Writer:
    """Takes what the engine finishes; stores rows whose last attempt has ended, sends the others back.

    Args:
        store: the ledger.
        in_flight: the shards held by this process.
        prompter: makes the prompt of an attempt that follows another.
        submit: hands such an attempt to the engine.
        lost: called with a shard whose lease another worker holds now.
        broken: told on this thread of what ends it; an exception of one row fails that row instead.
        meter: counts the rows that are stored.
        life: told of the first of them.
    """

    def __init__(
        self,
        store: Store,
        in_flight: InFlight,
        prompter: Prompter,
        submit: Callable[[Sequence[Request]], None],
        lost: Callable[[ShardRun], None],
        broken: Broken,
        meter: Meter,
        life: LifeFile,
    ) -> None:
        self._store = store
        self._in_flight = in_flight
        self._prompter = prompter
        self._submit = submit
        self._lost = lost
        self._meter = meter
        self._life = life
        self._finished: queue.SimpleQueue[Sequence[Finished | _Keyed] | None] = queue.SimpleQueue()
        self._buffers: dict[ShardRun, list[_Keyed]] = {}
        self._oldest = 0.0  # when the oldest outcome in the buffers came
        self._gone = threading.Event()  # no time is left for a database that does not answer
        self.thread = Guarded("writer", self._run, broken)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def deliver(self, finished: Sequence[Finished]) -> None:
        """Take attempts that have ended; never blocks."""
        self._finished.put(finished)

    def hand_on(self, outcomes: Sequence[_Keyed]) -> None:
        """Take outcomes of rows that were not run, by key; never blocks."""
        if outcomes:
            self._finished.put(outcomes)

    def stop(self, timeout: float) -> None:
        """Store what has been delivered and end, within `timeout` seconds; on this thread itself, end at once."""
        own = threading.current_thread() is self.thread
        self._finished.put(None)
        if not own:
            self.thread.join(timeout)
        self._gone.set()
        if not own:
            self.thread.join()

    def _run(self) -> None:
        """Collect outcomes and commit them when they are many or old."""
        more = True
        while more:
            wait = max(0.0, self._oldest + _OLDEST - time.monotonic()) if self._buffers else None
            more = self._collect(wait)
            self._flush(_BATCH if more and time.monotonic() - self._oldest < _OLDEST else 1)

    def _collect(self, wait: float | None) -> bool:
        """Take what has been delivered, at least what comes first; return whether more may be delivered.

        What came during a commit is taken at once, and stored at once: a slow ledger has fewer and larger commits.
        """
        taken = 0
        try:
            batch = self._finished.get(timeout=wait)
            while batch is not None:
                for item in batch:
                    self._take(item)
                taken += len(batch)
                if taken >= _BATCH_MOST:
                    return True
                batch = self._finished.get_nowait()
        except queue.Empty:
            return True
        return False

    def _take(self, item: Finished | _Keyed) -> None:
        """Buffer a row's outcome, or send the row back to the engine for another attempt."""
        key = item.key if isinstance(item, Finished) else item[0]
        found = self._in_flight.find(key)
        if found is None:
            return  # its lease was lost meanwhile
        shard, run = found
        try:
            outcome = self._outcome(run, item) if isinstance(item, Finished) else item[1]
        except Exception as error:
            log.exception("%s: row %d cannot be judged", shard, run.row.row)
            said = f"the answer cannot be judged: {described(error)}"
            outcome = unstorable(run.row.round, run.row.row, run.row.attempts + 1, said)
        if outcome is None:
            return
        if not self._buffers:
            self._oldest = time.monotonic()
        self._buffers.setdefault(shard, []).append((key, outcome))

    def _outcome(self, run: RowRun, finished: Finished) -> Outcome | None:
        """Return what a row has come to; None if it goes back to the engine for another attempt."""
        # A further attempt for which the context has no room left is none: the row stays as it was.
        refused = finished.verdict.finish_reason is FinishReason.ERROR and bool(run.attempts)
        if not refused:
            run.conclude(finished)
            again = run.next_request(finished, finished.key, self._prompter)
            if again is not None:
                self._submit([again])
                return None
        return run.outcome()

    def _flush(self, least: int) -> None:
        """Commit the buffers that hold at least that many outcomes, or their shard's last."""
        for shard, buffer in list(self._buffers.items()):
            while len(buffer) >= least or (buffer and len(buffer) == len(shard.keys)):
                part, buffer[:] = buffer[:_BATCH_MOST], buffer[_BATCH_MOST:]
                if not self._store_part(shard, part):
                    buffer.clear()
            if not buffer:
                del self._buffers[shard]

    def _store_part(self, shard: ShardRun, part: list[_Keyed]) -> bool:
        """Commit outcomes of one shard, finishing it with its last; return whether it is still held."""
        try:
            self._commit(shard, [outcome for _, outcome in part])
            if self._in_flight.settle(shard, [key for key, _ in part]):
                self._finish(shard)
        except LeaseLost:
            self._lost(shard)
            return False
        return True

    def _finish(self, shard: ShardRun) -> None:
        """Close a shard whose last row is stored."""
        if self._persist(shard, lambda: finish(self._store, shard.lease)):
            log.info("%s: done in %.1f s", shard, time.monotonic() - shard.began)
        else:
            log.warning("%s: the database has lost rows that it had stored; they are run again", shard)
        self._in_flight.close(shard)

    def _commit(self, shard: ShardRun, outcomes: Sequence[Outcome]) -> None:
        """Store outcomes of one shard; one that the ledger does not take fails its row, and no other."""
        try:
            self._persist(shard, lambda: commit(self._store, shard.lease, outcomes))
        except LeaseLost:
            raise
        except Exception as error:
            if len(outcomes) > 1:
                middle = len(outcomes) // 2
                self._commit(shard, outcomes[:middle])
                self._commit(shard, outcomes[middle:])
                return
            first = outcomes[0].attempts[0]
            log.exception("%s: row %d cannot be stored", shard, first.row)
            said = f"the answer cannot be stored: {described(error)}"
            outcomes = [unstorable(outcomes[0].round, first.row, first.attempt, said)]
            self._persist(shard, lambda: commit(self._store, shard.lease, outcomes))
        self._meter.stored(outcomes)
        self._life.reach(Stage.PROVEN)

    def _persist(self, shard: ShardRun, write: Callable[[], Result]) -> Result:
        """Write to the ledger, again and again while it cannot be reached.

        Raises:
            LeaseLost: another worker holds the shard now, or the process must end before the ledger is back.
            StoreError: the ledger refuses the values, and would again.
        """
        wait = _RETRY_FIRST
        while True:
            try:
                return write()
            except StoreError as error:
                if refuses_values(error):
                    raise
                log.warning("%s: cannot store its rows, trying again: %s", shard, error)
                if self._gone.wait(wait):
                    raise LeaseLost("the process ends") from error
                wait = min(2 * wait, _RETRY_MOST)
