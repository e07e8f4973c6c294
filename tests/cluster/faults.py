"""What can happen to a cluster: each fault begins, lasts a while and ends, on hosts that it names."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

HOUR = 3600
DRIFT = 200_000  # parts in a million that a clock gains or loses: a fifth


@dataclass
class Fault:
    """One fault.

    Args:
        name: what it is.
        host: whose workers may feel it; `*` is all, and empty is none that holds a lease.
        begin: does it.
        end: undoes it.
    """

    name: str
    host: str
    begin: Callable[[], None]
    end: Callable[[], None] = lambda: None


def faults_of(cluster):
    """Every kind of fault, as a function of the worker host that it hits, by name."""
    every = {
        "cut": lambda host: _cut(cluster, host, True, True),
        "cut to the servers": lambda host: _cut(cluster, host, True, False),
        "cut from the servers": lambda host: _cut(cluster, host, False, True),
        "slow and lossy": lambda host: _slow(cluster, host),
        "half-open": lambda host: Fault(
            "half-open", host, lambda: cluster.wire.forget_flows(cluster.hosts[host].address)
        ),
        "killed": lambda host: Fault(
            "killed", host, lambda: cluster.kill(host), lambda: cluster.start_worker(host)
        ),
        "frozen": lambda host: Fault(
            "frozen",
            host,
            lambda: cluster.signal(host, signal.SIGSTOP),
            lambda: cluster.signal(host, signal.SIGCONT),
        ),
        "drained": lambda host: Fault(
            "drained", host, lambda: cluster.signal(host, signal.SIGTERM), lambda: cluster.start_worker(host)
        ),
        "broker killed": lambda _: Fault("broker killed", "", cluster.broker.crash, cluster.broker.start),
        "broker full": lambda _: _full_broker(cluster, "noeviction"),
        "broker evicts": lambda _: _full_broker(cluster, "allkeys-random"),
    }
    if cluster.has_sentinels:
        every["broker fails over"] = lambda _: Fault("broker fails over", "", cluster.broker.fail_over)
        every["broker's host cut off"] = lambda _: _broker_cut_off(cluster)
    if cluster.postgres is not None:
        every["database killed"] = lambda _: Fault(
            "database killed", "*", cluster.postgres.crash, cluster.postgres.start
        )
        every["database fails over"] = lambda _: Fault("database fails over", "*", cluster.fail_over)
    else:
        every["disk full"] = lambda _: Fault("disk full", "*", cluster.disk.fill, cluster.disk.free)
        if cluster.has_clocks:  # and so a compiler
            every["power lost"] = lambda _: Fault("power lost", "*", cluster.lose_power, cluster.start_workers)
    if cluster.has_clocks:
        every["clock an hour on"] = lambda host: _clock(cluster, host, HOUR)
        every["clock an hour back"] = lambda host: _clock(cluster, host, -HOUR)
        every["clock drifts"] = lambda host: _clock(cluster, host, 0, gains=DRIFT)
        every["ledger's clock drifts"] = lambda _: _ledger_clock(cluster, 0, gains=-DRIFT)
        every["ledger's clock an hour on"] = lambda _: _ledger_clock(cluster, HOUR)
        every["ledger's clock an hour back"] = lambda _: _ledger_clock(cluster, -HOUR)
    return every


def _cut(cluster, host, out, back):
    """Lose all packets between a host and the servers."""

    def set_cut(cut):
        for links, wanted in zip(cluster.links(host), (out, back), strict=True):
            for link in links:
                link.cut = cut and wanted

    return Fault("cut", host, lambda: set_cut(True), lambda: set_cut(False))


def _slow(cluster, host):
    """300 ms each way, and every fifth packet lost."""

    def begin():
        for link in chain(*cluster.links(host)):
            link.delay, link.loss = 0.3, 0.2

    def end():
        for link in chain(*cluster.links(host)):
            link.delay, link.loss = 0.0, 0.0

    return Fault("slow and lossy", host, begin, end)


def _full_broker(cluster, policy):
    """The broker has no memory left: it refuses messages, or drops them."""

    def begin():
        cluster.broker.configure("maxmemory-policy", policy)
        cluster.broker.configure("maxmemory", "1")

    return Fault(f"broker full, {policy}", "", begin, lambda: cluster.broker.configure("maxmemory", "0"))


def _broker_cut_off(cluster):
    """The host of the broker's master is cut off until the other server takes over; two then believe to be it."""

    def begin():
        cluster.broker.wait_until_whole()
        first = cluster.broker.master
        cluster.isolate(first, True)
        cluster.broker.wait_for_takeover(cluster.broker.other(first))
        cluster.isolate(first, False)

    return Fault("broker's host cut off", "", begin)


def _clock(cluster, host, seconds, *, gains=0):
    """A worker's clock is wrong; a SQLite ledger has no other."""
    if cluster.postgres is None:
        return _ledger_clock(cluster, seconds, gains=gains)
    set_clock = cluster.hosts[host].set_clock
    return Fault("clock", host, lambda: set_clock(seconds, gains), lambda: set_clock(0))


def _ledger_clock(cluster, seconds, *, gains=0):
    """The clock of leases is wrong: the database's host, or with SQLite all workers' at once."""
    names = ["servers"] if cluster.postgres is not None else cluster.worker_hosts

    def set_clocks(value, gains=0):
        for name in names:
            cluster.hosts[name].set_clock(value, gains)

    return Fault("ledger's clock", "*", lambda: set_clocks(seconds, gains), lambda: set_clocks(0))
