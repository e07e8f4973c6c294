"""Taking shards: claimed, their rows handed to the engine; and no exception on that way without a verdict."""

import logging
from collections.abc import Sequence

from endmark.db import shards
from endmark.db.connection import Store
from endmark.db.jobs import fail_job
from endmark.jobs.errors import EndmarkError, StoreError
from endmark.jobs.launch.lives import LifeFile, Stage
from endmark.jobs.progress import WorkerReport
from endmark.worker.engine.request import Finished, Request
from endmark.worker.process.traces import described
from endmark.worker.service.engine_thread import EngineThread, failed
from endmark.worker.service.feeder import Feeder
from endmark.worker.service.in_flight import InFlight, ShardRun
from endmark.worker.service.meter import Meter
from endmark.worker.service.rows import RowRun
from endmark.worker.service.twins import Twins
from endmark.worker.service.writer import Writer

log = logging.getLogger(__name__)


class Claims:
    """Claims the due shards of one worker's model.

    Args:
        identity: the worker, and the model and adapter of its jobs.
        lease_seconds: how long a claim holds without a heartbeat.
    """

    def __init__(
        self,
        store: Store,
        identity: WorkerReport,
        feeder: Feeder,
        in_flight: InFlight,
        engine: EngineThread,
        writer: Writer,
        *,
        lease_seconds: float,
        meter: Meter,
        life: LifeFile,
    ) -> None:
        self._store = store
        self._identity = identity
        self._feeder = feeder
        self._in_flight = in_flight
        self._engine = engine
        self._writer = writer
        self._lease_seconds = lease_seconds
        self._meter = meter
        self._life = life
        # Patience: as long as it takes until another worker has the rows of one that has died.
        self._twins = Twins(store, in_flight, patience=2 * lease_seconds, run=self.run, deliver=writer.hand_on)

    @property
    def crowded(self) -> bool:
        """Whether no more shards should be claimed: too many rows wait for others' answers."""
        return self._twins.crowded

    def settle(self) -> None:
        """See to the rows that wait for others' answers.

        Raises:
            StoreError: the ledger cannot be reached.
        """
        self._twins.settle()

    def take(self) -> ShardRun | None:
        """Claim the fairest due shard and hand its rows to the engine; None if none is due.

        A job that cannot be read fails, and the next shard is taken.

        Raises:
            StoreError: the ledger cannot be reached; what was claimed is released.
        """
        identity = self._identity
        while True:
            lease = shards.claim(
                self._store,
                worker=identity.worker,
                model=identity.model,
                adapter=identity.adapter,
                lease_seconds=self._lease_seconds,
            )
            if lease is None:
                return None
            self._meter.reaped += lease.attempts > 1
            shard = ShardRun(lease)
            try:
                self._feed(shard)
            except StoreError:
                self.release(shard)
                raise
            except Exception as error:
                self._refuse(shard, error)
            else:
                return shard

    def release(self, shard: ShardRun) -> None:
        """Give a shard back, for any worker to go on with."""
        keys = self._in_flight.close(shard)
        if keys:
            self._engine.cancel(keys)
        try:
            shards.release(self._store, shard.lease)
            log.info("%s: released", shard)
        except StoreError as error:
            log.warning("%s: cannot release it, its lease will run out: %s", shard, error)

    def _feed(self, shard: ShardRun) -> None:
        """Have a shard's rows run, but for those that wait for another's answer."""
        keyed = self._in_flight.open(shard, self._feeder.rows(shard.lease))
        log.debug("%s: claimed, %d rows", shard, len(keyed))
        if not keyed:
            shards.finish(self._store, shard.lease)
            self._in_flight.close(shard)
            return
        self.run(self._twins.kept_apart(shard, keyed))

    def run(self, keyed: Sequence[tuple[int, RowRun]]) -> None:
        """Hand rows to the engine, and those that cannot be run to the writer."""
        requests, refused = _requests(keyed)
        if requests:
            self._life.reach(Stage.WORKING)
        self._engine.submit(requests)
        if refused:
            self._writer.deliver(refused)

    def _refuse(self, shard: ShardRun, error: Exception) -> None:
        """Let the job fail that this shard is of: any worker of this version would stumble over it again."""
        keys = self._in_flight.close(shard)
        if keys:
            self._engine.cancel(keys)
        known = isinstance(error, EndmarkError)
        said = str(error) if known else described(error)
        log.error("%s: the job cannot be run: %s", shard, said, exc_info=None if known else error)
        try:
            fail_job(self._store, shard.lease, f"worker {self._identity.worker} cannot run it: {said}")
        except BaseException:
            self.release(shard)
            raise


def _requests(keyed: Sequence[tuple[int, RowRun]]) -> tuple[list[Request], list[Finished]]:
    """Return what the engine is to run, and the rows that cannot be run."""
    requests: list[Request] = []
    refused: list[Finished] = []
    for key, run in keyed:
        error = run.prompt.error
        if error is None:
            try:
                requests.append(run.first_request(key))
            except Exception as unforeseen:
                log.exception("row %d cannot be run", run.row.row)
                error = described(unforeseen)
        if error is not None:
            refused.append(failed(key, error))
    return requests, refused
