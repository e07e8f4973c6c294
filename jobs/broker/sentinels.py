"""A broker behind Sentinels: its URL read, its master of the moment found, and both told to kombu.

The URL is `sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/MASTER[/DATABASE]`. As with Celery, user and password
are those of the servers; the Sentinels' own are options, as is TLS.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

SCHEME = "sentinel"
_PORT = 26379
_OPTIONS = ("sentinel_username", "sentinel_password", "ssl_cert_reqs", "ssl_ca_certs")


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Where Sentinels listen, and which of their masters is the broker."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    database: int
    username: str  # of the servers
    password: str
    own_username: str  # of the Sentinels themselves
    own_password: str
    tls: Mapping[str, str | bool] | None  # redis-py's `ssl_…` options, for servers and Sentinels; None: no TLS

    def kombu_url(self) -> str:
        """Return the URL that kombu reads: one for each Sentinel, in which it has no place for the master."""
        secret = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"
        return ";".join(
            f"{SCHEME}://{secret if secret != ':@' else ''}{_written(*host)}/{self.database}"
            for host in self.hosts
        )

    def kombu_options(self, timeout: float) -> dict[str, Any]:
        """Return the transport options that say the rest; a Sentinel has `timeout` seconds to answer."""
        return {"master_name": self.master, "sentinel_kwargs": self._own(timeout)}

    def find_master(self, timeout: float) -> tuple[str, int]:
        """Ask one Sentinel after the other, each for `timeout` seconds at most, where the master is.

        Raises:
            redis.ConnectionError: none answers, or none has such a master that is alive.
        """
        from redis import ConnectionError as NoMaster
        from redis import Redis, RedisError

        away: list[str] = []
        known: set[str] = set()
        down = False
        for host, port in self.hosts:
            try:
                with Redis(host, port, decode_responses=True, **self._own(timeout)) as asked:
                    masters: dict[str, dict[str, Any]] = asked.sentinel_masters()
            except (RedisError, OSError) as error:
                away.append(f"{_written(host, port)}: {reason_of(error)}")
                continue
            known.update(masters)
            state = masters.get(self.master)
            if state and not (state["is_sdown"] or state["is_odown"]):
                return state["ip"], int(state["port"])
            down = down or state is not None
        if down:
            raise NoMaster(f"the master `{self.master}` is down and no replica has taken over yet")
        if len(away) < len(self.hosts):
            names = ", ".join(f"`{name}`" for name in sorted(known)) or "none"
            raise NoMaster(
                f"the Sentinels know no master `{self.master}`, but {names}: name it behind the hosts, `…/MASTER`"
            )
        raise NoMaster(f"no Sentinel answers ({'; '.join(away)})")

    def _own(self, timeout: float) -> dict[str, Any]:
        """Return the options of a client of a Sentinel, which tries everything once."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return {
            "username": self.own_username or None,
            "password": self.own_password or None,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # as with the server itself
            **({"ssl": True, **self.tls} if self.tls is not None else {}),
        }


def in_one(url: str) -> str:
    """Return the one URL for Celery's form of several, `sentinel://A@H:P;sentinel://A@H:P/MASTER`."""
    return re.sub(rf";{SCHEME}://([^/;]*@)?", ",", url)


def parse_sentinels(url: str) -> Sentinels:
    """Read a URL of Sentinels.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(url)
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    hosts = []
    for place in places.split(","):
        read = urlsplit(f"//{place}")
        if not read.hostname:
            raise ValueError("a Sentinel without a host")
        hosts.append((read.hostname, read.port or _PORT))
    master, _, number = unquote(parts.path).strip("/").partition("/")
    if not master or (master.isdecimal() and not number):
        raise ValueError("names no master")
    if number and not number.isdecimal():
        raise ValueError(f"`{number}` is no number of a database")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise ValueError(f"unknown option `{unknown[0]}`; there are {', '.join(_OPTIONS)}")
    return Sentinels(
        hosts=tuple(hosts),
        master=master,
        database=int(number or 0),
        username=unquote(username),
        password=unquote(password),
        own_username=options.get("sentinel_username", ""),
        own_password=options.get("sentinel_password", ""),
        tls=_tls(options.get("ssl_cert_reqs"), options.get("ssl_ca_certs")),
    )


def _tls(checked: str | None, authorities: str | None) -> dict[str, str | bool] | None:
    """Return redis-py's options of TLS, None for none: of an option of TLS it is meant."""
    if checked is None and authorities is None:
        return None
    checked = (checked or "required").lower().removeprefix("cert_")
    if checked not in ("required", "none"):
        raise ValueError(f"ssl_cert_reqs is `required` or `none`, not `{checked}`")
    found: dict[str, str | bool] = {"ssl_cert_reqs": checked, "ssl_check_hostname": checked == "required"}
    return found | ({"ssl_ca_certs": authorities} if authorities else {})


def reason_of(error: Exception) -> str:
    """Return what a client says of a server that does not answer, once and without the address."""
    system = error.__context__  # the client tells its number and the address once more
    said = system.strerror if isinstance(system, OSError) else None
    return said or str(error) or type(error).__name__


def _written(host: str, port: int) -> str:
    """Return a host and its port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
