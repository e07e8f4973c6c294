"""A broker behind three Sentinels: two servers on hosts of their own, one of which follows the other."""

import contextlib
import secrets
import shutil
import tempfile
from pathlib import Path

from redis.exceptions import RedisError

from endmark.jobs.broker.address import client, parse_address
from endmark.jobs.broker.server import find_binary
from tests.cluster.servers import end, wait_for

_WATCHED = """
bind {address}
port 26379
unixsocket {socket}
dir {folder}
protected-mode no
requirepass {watch}
sentinel monitor main {master} 6379 2
sentinel auth-pass main {secret}
sentinel down-after-milliseconds main 500
sentinel failover-timeout main 3000
"""


class SentinelValkey:
    """What `servers.Valkey` is, of which a second server takes over; the tests reach each by a unix socket.

    Args:
        hosts: of the two servers; each has a Sentinel too.
        third: the host of the third Sentinel.
    """

    def __init__(self, hosts, third):
        self._hosts, self._watchers = hosts, (*hosts, third)
        self._secret, self._watch = secrets.token_hex(8), secrets.token_hex(8)
        self._folder = Path(tempfile.mkdtemp(prefix="endmark-sentinels-"))
        self._running = {}  # by socket
        places = ",".join(f"{host.address}:26379" for host in self._watchers)
        self.url = f"sentinel://:{self._secret}@{places}/main?sentinel_password={self._watch}"

    def start(self):
        """Start all that does not run, and wait until the Sentinels know each other and who follows."""
        if not self._running:
            self._serve(self._hosts[0])
            self._serve(self._hosts[1], self._hosts[0])
            for host in self._watchers:
                self._watch_from(host)
        self.wait_until_whole()

    def _serve(self, host, master=None):
        """Start a server; with a master it follows that."""
        words = ["--bind", host.address, "--protected-mode", "no", "--save", "", "--appendonly", "no"]
        words += ["--requirepass", self._secret, "--masterauth", self._secret, "--repl-diskless-sync-delay", "0"]
        words += ["--replicaof", master.address, "6379"] if master else []
        socket = self._socket(host)
        self._run(host, socket, "--unixsocket", str(socket), *words)
        wait_for(lambda: self._role(host) is not None, "Valkey does not start")

    def _watch_from(self, host):
        """Start a Sentinel."""
        folder = self._folder / f"watch-{host.name}"
        folder.mkdir()
        told = {"master": self._hosts[0].address, "secret": self._secret, "watch": self._watch}
        path = folder / "conf"
        path.write_text(_WATCHED.format(address=host.address, socket=folder / "socket", folder=folder, **told))
        self._run(host, folder, str(path), "--sentinel")

    def _run(self, host, name, *words):
        with (host.home / "valkey.log").open("ab") as log:
            self._running[name] = host.start([find_binary(), *words], stdout=log, stderr=log, cwd=host.home)

    def _socket(self, host):
        return self._folder / host.name

    def _ask(self, host):
        return client(parse_address(f"redis+socket://:{self._secret}@{self._socket(host)}"))

    def _role(self, host):
        """What a server says that it is; None of one that does not answer."""
        with contextlib.suppress(RedisError):
            return self._ask(host).role()[0]
        return None

    def _whole(self):
        """Whether all Sentinels name one master that a follower has caught up with, and know each other."""
        said = set()
        for host in self._watchers:
            link = client(
                parse_address(f"redis+socket://:{self._watch}@{self._folder / f'watch-{host.name}'}/socket")
            )
            try:
                state = link.sentinel_masters()["main"]
            except RedisError:
                return False
            if state["num-other-sentinels"] != 2 or state["is_sdown"] or state["num-slaves"] != 1:
                return False
            said.add(state["ip"])
        if len(said) != 1 or said != {host.address for host in self._hosts if self._role(host) == "master"}:
            return False
        return self._ask(self.master).info("replication").get("slave0", {}).get("state") == "online"

    def wait_until_whole(self):
        """Wait until another failover is possible."""
        wait_for(self._whole, "the Sentinels are not whole")

    @property
    def master(self):
        """The host of the server that is a master."""
        chosen = [host for host in self._hosts if self._role(host) == "master"]
        return chosen[0] if chosen else self._hosts[0]

    @property
    def local(self):
        """The URL by which the tests reach the master."""
        return f"redis+socket://:{self._secret}@{self._socket(self.master)}"

    def other(self, host):
        """The host of the other server."""
        return self._hosts[1 - self._hosts.index(host)]

    def wait_for_takeover(self, host):
        """Wait until a host's server is a master."""
        wait_for(lambda: self._role(host) == "master", "no Sentinel lets the second server take over")

    def fail_over(self):
        """Kill the master, wait until the other has taken over, and let the first come back behind it."""
        self.wait_until_whole()
        first = self.master
        end(self._running.pop(self._socket(first)))
        self.wait_for_takeover(self.other(first))
        self._serve(first, self.other(first))

    def listeners(self):
        """How many clients wait for messages at the master."""
        return sum(item["cmd"] in ("brpop", "bzpopmin") for item in self._ask(self.master).client_list())

    def remove(self):
        """End all for good."""
        for process in self._running.values():
            end(process)
        shutil.rmtree(self._folder)
