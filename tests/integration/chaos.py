"""Faults at random moments: two real workers on one job while they, their broker and their database are hit."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from redis import RedisError

from endmark.db.connection import open_store
from endmark.db.jobs import load_job
from endmark.db.workers import list_workers
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.broker.address import client, parse_address
from endmark.jobs.engines import ANY_ENGINE, EngineChoice
from endmark.jobs.errors import StoreError
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.queue import wake
from endmark.jobs.settings import Settings
from tests.integration.service_fixtures import results, submit

LEASE = 6.0  # seconds


class Chaos:
    """One job, two workers, and the faults to put them through.

    Args:
        home: the folder of broker, logs and, on SQLite, the ledger.
        model: the model's folder.
        seed: of the choice of faults and moments.
        database_url: the ledger; by default a SQLite file.
        restart_database: restarts its server, where it has one.
        lease: seconds of the workers' leases.
        engine: of the workers.
    """

    def __init__(
        self,
        home: Path,
        model: str,
        seed: int,
        *,
        database_url: str | None = None,
        restart_database: Callable[[], None] | None = None,
        lease: float = LEASE,
        engine: EngineChoice = ANY_ENGINE,
    ) -> None:
        self.lease = lease
        self.random = random.Random(seed)
        self.model = model
        self.settings = Settings(home, database_url or f"sqlite:///{home / 'ledger.db'}", None)
        self.store = open_store(self.settings.database_url, upgrade=True)
        self.broker = ensure_broker(self.settings)
        options = WorkerOptions(model, gpus="cpu", lease=lease, grace=5.0, engine=engine)
        self.workers = [start_worker(self.settings, options) for _ in range(2)]
        self.faults = [self.kill_worker, self.stop_worker, self.lose_messages, self.kill_broker]
        if restart_database is not None:
            self.faults.append(restart_database)
        self._next: list[Callable[[], None]] = []
        self.done: list[str] = []

    def submit(self, rows: int, **options) -> str:
        """Store a job and wake the workers."""
        prompts = [f"What can I do in place number {row}?" for row in range(rows)]
        job = submit(self.store, prompts, model=self.model, shard_size=16, **options)
        wake(self.broker.url, self.model, None, 2)
        return job

    def wait_for_workers(self, count: int = 2, seconds: float = 180.0) -> None:
        """Wait until the workers have loaded their model."""
        self._wait(lambda: len(list_workers(self.store)) >= count, seconds)

    def run(self, job: str, count: int, seconds: float = 240.0) -> list[tuple]:
        """Let faults happen while the job runs, then leave it alone; return its results."""
        while len(self.done) < count and not self._is_final(job):
            time.sleep(self.random.uniform(0.2, 1.5))
            fault = self._draw()
            self.done.append(fault.__name__)
            fault()
        self._wait(lambda: self._is_final(job), seconds)
        return results(self.store, job)

    def kill_worker(self) -> None:
        """SIGKILL one worker process; its supervisor starts it again."""
        self._hit(signal.SIGKILL)

    def stop_worker(self) -> None:
        """Stop one worker process for longer than its leases, then let it go on as if nothing had been."""
        pid = self._hit(signal.SIGSTOP)
        if pid is not None:
            time.sleep(1.5 * self.lease)
            os.kill(pid, signal.SIGCONT)

    def lose_messages(self) -> None:
        """Empty the broker."""
        try:
            client(parse_address(self.broker.url)).flushall()
        except (RedisError, OSError):
            self.done.append("(the broker was away)")

    def kill_broker(self) -> None:
        """SIGKILL the broker; a supervisor starts it again."""
        pid = self.broker.server.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            worker.stop(30)
        self.broker.release()
        self.store.close()

    def log(self) -> str:
        """What the workers logged."""
        return "\n".join(worker.tail(60) for worker in self.workers)

    def _draw(self) -> Callable[[], None]:
        """Return a fault at random; none comes again before every other has."""
        if not self._next:
            self._next = self.random.sample(self.faults, len(self.faults))
        return self._next.pop()

    def _hit(self, number: signal.Signals) -> int | None:
        """Send a signal to one of the worker processes."""
        try:
            names = [worker.worker for worker in list_workers(self.store, max_age=5.0)]
        except StoreError:
            return None
        self.random.shuffle(names)
        for name in names:
            pid = int(name.rpartition(":")[2])
            if b"endmark.worker.service.app" in _command_line(pid):
                os.kill(pid, number)
                return pid
        return None

    def _is_final(self, job: str) -> bool:
        """Whether the job has ended; False while the database is away."""
        try:
            return load_job(self.store, job).state.is_final
        except StoreError:
            return False

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for what must come."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"after {self.done}:\n{self.log()}"
            time.sleep(0.1)


def _command_line(pid: int) -> bytes:
    """Return a process's command line; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
