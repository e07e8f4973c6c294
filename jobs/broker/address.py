"""Where a broker listens: its URL read and masked, and a client of a server there.

kombu speaks with it where messages are sent and taken; this asks whether it answers, and ends our own.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from endmark.jobs.broker.sentinels import SCHEME, Sentinels, in_one, parse_sentinels, reason_of
from endmark.jobs.errors import BrokerError

if TYPE_CHECKING:
    from redis import Redis

SCHEMES = ("redis", "rediss", "redis+socket")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker listens."""

    path: str | None  # of its unix socket
    host: str
    port: int
    username: str
    password: str
    tls: bool
    verify: bool  # whether its certificate is checked


def parse_address(url: str) -> Address | Sentinels:
    """Read a broker URL as kombu reads it; one of Sentinels as `sentinels` says.

    Raises:
        BrokerError: it is not a URL of a Redis-protocol server.
    """
    sentinels = url.startswith(f"{SCHEME}://")
    url = in_one(url) if sentinels else url
    _check_encoded(url)
    try:
        return parse_sentinels(url) if sentinels else _parse_server(url)
    except ValueError as error:
        hint = _SENTINELS if sentinels else _SHAPES
        raise BrokerError(f"broker URL `{mask(url)}`: {error}", hint=hint) from error


def _check_encoded(url: str) -> None:
    """Refuse a password that would end where it should not."""
    credentials = url.partition("://")[2].rpartition("@")[0]
    if not credentials.startswith("/") and any(sign in credentials for sign in _TO_ENCODE):
        raise BrokerError(f"broker URL `{mask(url)}`: its password is not %-encoded", hint=_ENCODED)


def _parse_server(url: str) -> Address:
    """Read the URL of one server.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    port = parts.port or 6379
    if parts.scheme not in SCHEMES:
        raise ValueError(f"unknown scheme `{parts.scheme}`")
    number = parse_qs(parts.query).get("virtual_host", [""])[0] or parts.path.strip("/")
    if parts.scheme != "redis+socket" and number and not number.isdecimal():
        raise ValueError(f"`{number}` is no number of a database")
    path = unquote(parts.path) if parts.scheme == "redis+socket" else None
    if path is not None and not path.startswith("/"):
        raise ValueError("names no socket")
    # kombu checks a certificate only where the URL says how.
    verify = "required" in parse_qs(parts.query).get("ssl_cert_reqs", [""])[0].lower()
    return Address(
        path=path,
        host=parts.hostname or "127.0.0.1",
        port=port,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=parts.scheme == "rediss",
        verify=verify,
    )


_SHAPES = "use `redis://HOST:PORT/0`, `rediss://HOST:PORT/0` or `redis+socket:///PATH?virtual_host=0`"
_SENTINELS = "use `sentinel://USER:PASSWORD@HOST:26379,HOST:26379,HOST:26379/MASTER/0`"
_TO_ENCODE = "/?#[]@"  # what would end the password for whoever reads the URL
_ENCODED = "in a password, write `%40` for `@`, `%2F` for `/`, `%23` for `#`, `%3F` for `?`, `%25` for `%`"


def mask(url: str) -> str:
    """Return the URL without its passwords, for messages."""
    url = re.sub(r"(sentinel_password=).*", r"\1***", url)
    scheme, separator, rest = url.partition("://")
    credentials, at, location = rest.rpartition("@")
    if not at or ":" not in credentials:
        return url
    return f"{scheme}{separator}{credentials.partition(':')[0]}:***@{location}"


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether the server at the URL answers PING within `timeout` seconds (not while it loads its data)."""
    return why_silent(url, timeout) is None


def why_silent(url: str, timeout: float = 1.0) -> str | None:
    """Return why the server at the URL does not answer PING, or None if it does."""
    address = parse_address(url)
    from redis import RedisError

    try:
        with client(address, timeout) as asked:
            asked.ping()
    except (RedisError, OSError) as error:
        return reason_of(error)
    return None


def why_full(url: str, timeout: float = 1.0) -> str | None:
    """Return what a server does with messages for want of memory; None where it has enough or will not say."""
    from redis import RedisError

    try:
        with client(parse_address(url), timeout) as asked:
            told = asked.info("memory")
    except (RedisError, OSError):
        return None
    most, policy = int(told.get("maxmemory", 0)), told.get("maxmemory_policy", "noeviction")
    used = int(told.get("used_memory", 0)) - int(told.get("mem_not_counted_for_evict", 0))
    if not most or used <= most:
        return None
    does = "it refuses messages" if policy == "noeviction" else f"it may drop messages ({policy})"
    return f"{does}, as its memory is full: {used:,} bytes of `maxmemory` {most:,}"


def client(address: Address | Sentinels, timeout: float = 5.0) -> "Redis":
    """Return a client of the server, which tries everything once and waits `timeout` seconds at most.

    Behind Sentinels it is one of the master of this moment.

    Raises:
        redis.ConnectionError: the Sentinels name none.
    """
    from redis import Redis  # a tenth of a second of imports
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "username": address.username or None,
        "password": address.password or None,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "protocol": 2,  # of 3 the handshake itself is refused where a password is missing, in other words
    }
    if isinstance(address, Sentinels):
        options |= {"db": address.database, "ssl": address.tls is not None, **(address.tls or {})}
        return Redis(*address.find_master(timeout), **options)
    if address.path is not None:
        return Redis(unix_socket_path=address.path, **options)
    if address.tls:
        options |= {"ssl": True, "ssl_cert_reqs": "required" if address.verify else "none"}
        options |= {"ssl_check_hostname": address.verify}
    return Redis(address.host, address.port, **options)
