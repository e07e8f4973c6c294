"""What a supervisor does about a process of its own that has died: its leases are freed, and others are told."""

import logging
import socket
from dataclasses import dataclass, field
from pathlib import Path

from endmark.jobs.errors import StoreError
from endmark.jobs.launch.workers import write_deaths
from endmark.worker.supervisor.children import Death

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Undertaker:
    """Sees to the dead of one supervisor.

    Without it a dead process held its rows until its leases ran out, and `status` showed it at work meanwhile.
    """

    database_url: str
    report: Path | None  # where to tell who started the worker
    count: int = 0  # processes that have died
    told: bool = False  # whether the last of them has said in the log why
    _unseen: list[str] = field(default_factory=list)  # workers that the ledger still holds for alive

    def take(self, death: Death) -> None:
        """Note a death, and free what the process held."""
        self.count += 1
        self.told = death.told
        if self.report is not None and not death.last:  # the last one is told as what the worker gave up for
            write_deaths(self.report, self.count, f"{death.name}: it {death.how}")
        self._unseen.append(f"{socket.gethostname()}:{death.pid}")
        self.work()

    def work(self) -> None:
        """Free what the dead held; what cannot be done while the database is away is done when called again."""
        if not self._unseen:
            return
        from endmark.db.connection import open_store  # half a second of imports, needed only here
        from endmark.db.reaper import reap
        from endmark.db.workers import bury_worker

        try:
            with open_store(self.database_url) as store:
                while self._unseen:
                    bury_worker(store, self._unseen[0])
                    del self._unseen[0]
                reap(store)
        except StoreError as error:
            log.warning("cannot free what a dead process held: %s", error)
