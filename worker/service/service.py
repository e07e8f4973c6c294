"""The service: shards are claimed, their rows fed to the one engine of the process, their outcomes stored."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from endmark.db import shards, workers
from endmark.db.connection import Store
from endmark.jobs.errors import StoreError
from endmark.jobs.launch.lives import LifeFile
from endmark.jobs.progress import WorkerReport
from endmark.worker.engine.contract import InferenceEngine
from endmark.worker.process.periodic import Periodic
from endmark.worker.process.traces import described
from endmark.worker.service.claims import Claims
from endmark.worker.service.engine_thread import EngineThread
from endmark.worker.service.feeder import Feeder
from endmark.worker.service.in_flight import InFlight, ShardRun
from endmark.worker.service.meter import Meter
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.speed import Speed
from endmark.worker.service.watchdog import Stalled, ThreadEnded, Watchdog
from endmark.worker.service.writer import Writer

_TICK = 0.2  # seconds between looks at what may end a wait

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are done and how long they may take, in seconds."""

    lease: float = 90.0
    heartbeat: float = 20.0
    report: float = 3.0
    reap: float = 15.0
    look: float = 5.0  # between looks into the ledger while nothing is due and no message comes
    twins: float = 1.0  # between looks for answers that others wait for
    stall: float = 300.0  # for one step of the engine
    flush: float = 20.0  # for the last outcomes, when the process ends

    @classmethod
    def of(cls, lease: float, stall: float) -> "Pace":
        """Return the pace for leases of that length: a lease outlives three missed heartbeats."""
        return cls(lease=lease, heartbeat=min(20.0, lease / 4), reap=min(15.0, lease / 4), stall=stall)


class Service:
    """Owns the engine of a process and all threads around it.

    Args:
        engine: the engine, not yet in use.
        prompter: makes its prompts.
        store: the ledger.
        identity: which worker this is, and what it holds.
        rows_ahead: rows that wait for a slot, below which a shard is claimed.
        fatal: ends the process, which is of no use any more, for this reason; a stalled engine at once.
        pace: the times.
        life: where the process says how far it is.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        prompter: Prompter,
        store: Store,
        identity: WorkerReport,
        *,
        rows_ahead: int,
        fatal: Callable[[str, bool], None],
        pace: Pace | None = None,
        life: LifeFile | None = None,
    ) -> None:
        self._store = store
        self._identity = identity
        self._pace = pace or Pace()
        self._fatal = fatal
        self._rows_ahead = rows_ahead
        self._in_flight = InFlight()
        self._claiming = threading.Lock()
        self._draining = threading.Event()
        self._hurrying = threading.Event()
        self._ending = threading.Lock()  # held from the first break on
        self._stopping = False  # whether threads may end
        self.meter = Meter()
        self._prolonged = 0.0  # when the leases were last
        life = life or LifeFile(None)
        self._engine = EngineThread(
            engine, lambda finished: self._writer.deliver(finished), self.broken, self.meter
        )
        self._writer = Writer(
            store, self._in_flight, prompter, self._engine.submit, self._lose, self.broken, self.meter, life
        )
        self._claims = Claims(
            store,
            identity,
            Feeder(store, prompter, identity.computed_with),
            self._in_flight,
            self._engine,
            self._writer,
            lease_seconds=self._pace.lease,
            meter=self.meter,
            life=life,
        )
        self._watchdog = Watchdog(
            lambda: self._engine.step_began,
            self._pace.stall,
            stalled=self._stalled,
            broken=self.broken,
            ended=self._ended,
        )
        self._speed = Speed(lambda: self._engine.row_steps)
        self._looks = Periodic("look", self._pace.look, self._look, broken=self.broken)
        self._periodic = self._chores()

    def start(self) -> None:
        """Start all threads."""
        self._writer.start()
        self._engine.start()
        self._watchdog.start()
        for periodic in self._periodic:
            periodic.start()

    def _chores(self) -> list[Periodic]:
        """Return what is done every so often; without a heartbeat the process is of no use."""
        return [
            Periodic("heartbeat", self._pace.heartbeat, self._heartbeat, broken=self.broken, vital=True),
            Periodic("report", self._pace.report, self._report, broken=self.broken),
            Periodic("twins", self._pace.twins, self._claims.settle, broken=self.broken),
            Periodic("reaper", self._pace.reap, self._reap, broken=self.broken),
            self._looks,
        ]

    def wake(self) -> None:
        """Look into the ledger now for what is due."""
        self._looks.wake()

    def drain(self, grace: float) -> None:
        """Claim no more; give the rows that run `grace` seconds, store what there is, release the rest, stop."""
        self._draining.set()
        deadline = time.monotonic() + grace
        with self._claiming:
            shards_left = self._in_flight.shards()
        for shard in shards_left:
            while not shard.over.wait(_TICK):
                if self._hurrying.is_set() or time.monotonic() > deadline:
                    break
        self._stopping = True
        self._engine.stop(self._pace.flush)
        self._writer.stop(self._pace.flush)
        for shard in self._in_flight.shards():
            self._claims.release(shard)
        for periodic in self._periodic:
            periodic.stop()
        self._watchdog.stop()
        try:
            workers.remove_worker(self._store, self._identity.worker)
        except StoreError as error:
            log.warning("cannot sign off: %s", error)

    @property
    def drained(self) -> bool:
        """Whether a drain has begun."""
        return self._draining.is_set()

    def lease_age(self) -> float:
        """Return the seconds since the lease was claimed or prolonged for which that is longest; 0 without any."""
        held = self._in_flight.shards()
        return max((time.monotonic() - max(shard.began, self._prolonged) for shard in held), default=0.0)

    def hurry(self) -> None:
        """End the grace of a drain that is under way, or of the next."""
        self._hurrying.set()

    def _claim(self) -> ShardRun | None:
        """Claim a shard and hand its rows to the engine."""
        while not self._engine.wait_hungry(self._rows_ahead, _TICK):
            if self._draining.is_set():
                return None
        if self._draining.is_set() or self._claims.crowded:
            return None
        return self._claims.take()

    def _lose(self, shard: ShardRun) -> None:
        """Drop a shard that is ours no longer: its job was cancelled, or another worker has taken it."""
        keys = self._in_flight.close(shard)
        if keys is not None:
            self._engine.cancel(keys)
            log.warning("%s: paused, cancelled or taken by another worker; %d rows are dropped", shard, len(keys))

    def broken(self, thread: str, error: BaseException) -> None:
        """End the process, one of whose threads is of no use any more; what it has finished is stored first."""
        if not self._ending.acquire(blocking=False):
            return
        self._writer.stop(self._pace.flush)
        self._fatal(f"its {thread} broke: {described(error)}", False)

    def _stalled(self, error: Stalled) -> None:
        """End the process without any clean-up: a thread stuck in the device's driver would not let it end."""
        self._fatal(str(error), True)

    def _ended(self) -> list[str]:
        """Return the names of the threads that have ended before their time."""
        if self._stopping:
            return []
        threads = [self._engine.thread, self._writer.thread, *(item.thread for item in self._periodic)]
        return [thread.name for thread in threads if thread.ident is not None and not thread.is_alive()]

    def _heartbeat(self) -> None:
        """Keep the leases, of shards that are still ours; see that who watches the other threads lives."""
        if not self._stopping and self._watchdog.thread.ident is not None and not self._watchdog.thread.is_alive():
            self.broken("watchdog", ThreadEnded("it has ended"))
        held = self._in_flight.shards()
        if held:
            leases = [shard.lease for shard in held]
            lost = shards.heartbeat(self._store, leases, lease_seconds=self._pace.lease)
            self._prolonged = time.monotonic()
            for shard in held:
                if shard.lease in lost:
                    self._lose(shard)

    def _report(self) -> None:
        """Tell `status` what this worker does."""
        report = replace(self._identity, tokens_per_second=round(self._speed.per_second(), 1))
        workers.report_worker(self._store, report)

    def _reap(self) -> None:
        """Free what dead workers held."""
        shards.reap(self._store)

    def _look(self) -> None:
        """Claim what is due, each time the engine wants rows, until nothing is."""
        due = True
        while due:
            with self._claiming:  # a drain that has begun waits for this claim, and releases it
                due = self._claim() is not None
