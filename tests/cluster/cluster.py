"""Three hosts, their servers and workers, and a schedule of faults drawn from a seed."""

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from endmark.db.connection import Store, open_store, upgrade
from endmark.db.jobs import load_job
from endmark.jobs.errors import BrokerError, StoreError
from endmark.jobs.queue import wake
from tests.cluster.checker import check
from tests.cluster.disk import Disk
from tests.cluster.faults import faults_of
from tests.cluster.host import COMPILER, Host, sweep
from tests.cluster.recording import read_events, watch_ledger
from tests.cluster.schedules import turns
from tests.cluster.scripted import DEADLY, answer_of
from tests.cluster.sentinels import SentinelValkey
from tests.cluster.servers import Postgres, Valkey, end
from tests.cluster.wire import Wire
from tests.integration.service_fixtures import submit

LEASE = 4.0  # seconds, for the product's 90; what the product waits for a dead link is scaled with it
_LINK = "connect_timeout=2&tcp_user_timeout=1500&keepalives_idle=1&keepalives_interval=1&keepalives_count=1"
_FROZEN_AFTER = "1s"
_STEP = 0.03  # seconds a token
_ROOT = Path(__file__).parents[2]


class Cluster:
    """A servers' host and two workers' hosts on one wire.

    Args:
        folder: of homes and histories.
        seed: of the faults and of what the network loses; with an odd one the broker has TLS and a password.
        data: a stopped Postgres server's data, see `data_folder`; without it the ledger is a SQLite file, which
            the two workers share as processes of one host do.
        models: of each a worker runs on each workers' host.
        bug: the name of one of `bugs.py` that is planted into every worker.
        sentinels: whether the broker is behind three, its two servers on hosts of their own.
        former: the folder of the version before, whose ledger and workers these are until `upgrade`.
    """

    has_clocks = COMPILER is not None
    worker_hosts = ("one", "two")

    def __init__(self, folder, seed, data=None, *, models=("m",), bug=None, former=None, sentinels=False):
        self.folder, self.models, self._bug = folder, models, bug
        self._former, self.has_sentinels = former, sentinels
        self._random = random.Random(seed)
        self._seed = seed
        self._expected = {}
        self._workers = {}  # by host and model
        self._all = []  # every worker process ever started
        self.faults = []  # (begin, end, host, name)
        self._lost = []  # from when to when the database stored what it lost then
        self.hosts = {}
        self._undo = contextlib.ExitStack()
        try:
            self._build(data)
        except BaseException:
            self._undo.close()
            raise

    def _build(self, data):
        """Make hosts, servers and ledger, each with what undoes it."""
        sweep()
        self.wire = Wire(self._seed)
        brokers = ("broker", "second") if self.has_sentinels else ()
        for number, name in enumerate(("servers", *self.worker_hosts, *brokers), 1):
            self.hosts[name] = Host(self.wire, name, f"10.77.0.{number}", self.folder / name)
            self._undo.callback(self.hosts[name].remove)
        self._undo.callback(self.wire.close)
        self.wire.start()
        if self.has_sentinels:
            self.broker = SentinelValkey([self.hosts[name] for name in brokers], self.hosts["servers"])
        else:
            self.broker = Valkey(self.hosts["servers"], secured=self._seed % 2 == 1)
        self._undo.callback(self.broker.remove)
        self.broker.start()
        self.postgres = self.disk = None
        url = self._ledger(data)
        self.store = open_store(url, upgrade=True) if self._former is None else Store(make_url(url))
        self._undo.callback(self.store.close)
        self.jobs = [] if self._former is None else [self._submit_formerly(url, 80)]
        watch_ledger(self.store)
        (self.folder / "history").mkdir()

    def _ledger(self, data):
        """Make the ledger's place; return its URL for the test, and keep that for the workers."""
        if data is None:
            self.disk = Disk(self.folder, self._random)
            self._undo.callback(self.disk.remove)
            self._workers_url = f"sqlite:///{self.disk.ledger}"
            return self._workers_url
        self.postgres = Postgres(data, self.hosts["servers"])
        self._undo.callback(self.postgres.remove)
        self.postgres.start()
        name = f"cluster_{secrets.token_hex(6)}"
        engine = create_engine(
            self.postgres.url("postgres", local=True).replace("postgresql:", "postgresql+psycopg:")
        )
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        self._workers_url = f"{self.postgres.url(name)}?{_LINK}"
        return self.postgres.url(name, local=True)

    def submit(self, rows, *, model="m", deadly=None, shard_size=16, **options):
        """Store a job and wake the workers.

        Args:
            deadly: the row that kills every worker that runs it; None for none.
        """
        prompts = [f"place {row}{DEADLY if row == deadly else ''}" for row in range(rows)]
        job = submit(self.store, prompts, shard_size=shard_size, model=model, **options)
        self._expected.update(((job, row), answer_of(prompt)) for row, prompt in enumerate(prompts))
        with contextlib.suppress(BrokerError):  # workers look by themselves
            wake(self.broker.local, model, None, 2)
        return job

    def _submit_formerly(self, url, rows):
        """Have the version before make its ledger and store a job there."""
        words = [sys.executable, "-P", "-m", "tests.cluster.former", "submit", url, str(rows)]
        environment = {**os.environ, "PYTHONPATH": f"{self._former}:{_ROOT}"}
        job = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self._expected.update(((job, row), answer_of(f"place {row}")) for row in range(rows))
        return job

    def upgrade(self):
        """Bring the ledger to this version while its workers work; who is started from now on is of it too.

        A server beside a busy machine may not answer in time: then again, as a user would.
        """
        url = self.store.url.render_as_string(hide_password=False)
        for more in reversed(range(5)):
            try:
                upgrade(url)
                break
            except StoreError:
                if not more:
                    raise
        self._former = None

    def environment(self, host):
        """The settings of Endmark's processes on a host."""
        return {
            "ENDMARK_HOME": str(self.hosts[host].home),
            "ENDMARK_DATABASE_URL": self._workers_url,
            "ENDMARK_BROKER_URL": self.broker.url,
            "PYTHONPATH": str(_ROOT) if self._former is None else f"{self._former}:{_ROOT}",
            **(self.disk.environment() if self.disk else {}),
        }

    def start_worker(self, host):
        """Start the host's workers, but for those that run and are not about to end."""
        if self.disk and not self._all:
            self.disk.flush()
        for model in self.models:
            former = self._workers.get((host, model))
            if former is None or former.poll() is not None or former.ending:
                self._workers[host, model] = self._start_worker(host, model)
                self._workers[host, model].ending = False

    def start_workers(self):
        """Start the workers of all hosts, but for those that run."""
        for host in self.worker_hosts:
            self.start_worker(host)

    def _start_worker(self, host, model):
        """Start one worker."""
        told = {
            "host": host, "history": str(self.folder / "history"), "model": model, "bug": self._bug,
            "lease": LEASE, "grace": 2.0, "step": _STEP, "frozen_after": _FROZEN_AFTER,
        }  # fmt: skip
        with (self.hosts[host].home / "worker.log").open("ab") as log:
            module = (
                ["-m", "tests.cluster.worker"]
                if self._former is None
                else ["-P", "-m", "tests.cluster.former", "work"]
            )
            process = self.hosts[host].start(
                [sys.executable, *module, json.dumps(told)],
                env=self.environment(host),
                stdout=log,
                stderr=log,
                cwd=_ROOT,
            )
        self._all.append(process)
        return process

    def fail_over(self):
        """Let a second database take over that lacks the last second."""
        self._lost.append(self.postgres.fail_over())

    def signal(self, host, number):
        """Send a signal to the host's workers."""
        for process in self._on(host):
            process.ending = process.ending or number == signal.SIGTERM
            if process.poll() is None:
                process.send_signal(number)

    def kill(self, host):
        """SIGKILL the host's workers."""
        for process in self._on(host):
            end(process)

    def _on(self, host):
        """The workers of a host."""
        return [process for (where, _), process in self._workers.items() if where == host]

    def links(self, host):
        """The ways from a host to all but workers' hosts, and those back."""
        here = self.hosts[host].address
        others = [other.address for name, other in self.hosts.items() if name not in (host, *self.worker_hosts)]
        return [self.wire.link(here, there) for there in others], [self.wire.link(there, here) for there in others]

    def isolate(self, host, cut):
        """Cut a host off from all others, or no longer."""
        for other in self.hosts.values():
            for ends in ((host.address, other.address), (other.address, host.address)):
                self.wire.link(*ends).cut = cut

    def lose_power(self):
        """Let the machine of a SQLite ledger and its workers lose power; it comes back without workers."""
        for host in self.worker_hosts:
            self.kill(host)
        self._lost.append(self.disk.forget(self.store.close))

    def run(self, count, seconds=5.0, *, kinds=()):
        """Let so many faults happen within a time, overlapping as they come; all have ended when this returns.

        Args:
            kinds: of which they are; empty for all.
        """
        every = faults_of(self)
        chosen = turns(list(kinds or every), self._seed, count)
        moments = []  # (when, number, whether it begins)
        began = time.monotonic()
        planned = []
        for number, name in enumerate(chosen):
            fault = every[name](self._random.choice(self.worker_hosts))
            start = began + self._random.uniform(0, seconds / 2)
            length = (
                self._random.uniform(0.3, 1.5) * LEASE
                if name == "frozen"
                else self._random.uniform(0.3, seconds / 2)
            )
            planned.append((name, fault))
            moments += [(start, number, True), (start + length, number, False)]
        starts = {}
        for when, number, begins in sorted(moments):
            time.sleep(max(0.0, when - time.monotonic()))
            name, fault = planned[number]
            if begins:
                starts[number] = time.monotonic()
                fault.begin()
            else:
                fault.end()
                self.faults.append((starts[number], time.monotonic(), fault.host, name))
        self.wire.heal()

    def wait_for_claims(self, seconds=60.0):
        """Wait until every worker holds a shard."""
        deadline = time.monotonic() + seconds
        query = text("SELECT count(DISTINCT worker) FROM shards WHERE state = 'running'")
        while True:
            with self.store.reader.connect() as connection:
                if connection.execute(query).scalar() == len(self.worker_hosts) * len(self.models):
                    return
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def stored(self):
        """How many attempts the ledger holds."""
        with self.store.reader.connect() as connection:
            return connection.execute(text("SELECT count(*) FROM attempts")).scalar()

    def failed(self):
        """The rows that have failed: job, row and error."""
        query = text("SELECT job_id, row, error FROM attempts WHERE finish_reason = 'error' ORDER BY job_id, row")
        with self.store.reader.connect() as connection:
            return [tuple(item) for item in connection.execute(query)]

    def connections(self):
        """How many connections the workers have to Postgres."""
        if self.postgres is None:
            return 0
        with self.store.reader.connect() as connection:
            query = text("SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL")
            return connection.execute(query).scalar()

    def wait(self, jobs, seconds=60.0):
        """Wait until the jobs have ended, starting workers again as a supervisor does."""
        deadline = time.monotonic() + seconds
        while not all(load_job(self.store, job).state.is_final for job in jobs):
            assert time.monotonic() < deadline, f"after {self.faults}:\n{self.log()}"
            self.start_workers()
            time.sleep(0.1)

    def wrong(self):
        """What the checker says."""
        events = read_events((self.folder / "history").iterdir())
        faults = [item[:3] for item in self.faults]
        self.store.writer.dispose()  # its connections may have ended with a server
        return check(self.store, events, self._expected, lease=LEASE, faults=faults, lost=self._lost)

    def done(self, what, host, since=0.0):
        """How often a host's workers did something since then, by the monotonic clock."""
        events = read_events((self.folder / "history").glob(f"{host}-*"))
        return sum(item["what"] == what and item["phase"] == "done" and item["at"] > since for item in events)

    def stored_in_vain(self):
        """How many commits were acknowledged whose rows the database has lost."""
        events = read_events((self.folder / "history").iterdir())
        done = [item["at"] for item in events if item["what"] == "commit" and item["phase"] == "done"]
        return sum(begin < at < end for at in done for begin, end in self._lost)

    def log(self):
        """The workers' last lines."""
        return "\n".join((self.hosts[name].home / "worker.log").read_text()[-3000:] for name in self.worker_hosts)

    def close(self):
        """End everything."""
        for process in self._all:
            end(process)
        self._undo.close()
