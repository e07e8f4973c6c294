"""One command to a Redis-protocol server over a raw socket: enough to see whether it answers, and to end it."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from endmark.jobs.errors import BrokerError

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


def parse_address(url: str) -> Address:
    """Read a broker URL as kombu reads it.

    Raises:
        BrokerError: it is not a URL of a Redis-protocol server.
    """
    credentials = url.partition("://")[2].rpartition("@")[0]
    if not credentials.startswith("/") and any(sign in credentials for sign in _TO_ENCODE):
        raise BrokerError(f"broker URL `{mask(url)}`: its password is not %-encoded", hint=_ENCODED)
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError as error:
        raise BrokerError(f"broker URL `{mask(url)}`: {error}", hint=_SHAPES) from error
    if parts.scheme not in SCHEMES:
        raise BrokerError(f"broker URL `{mask(url)}`: unknown scheme `{parts.scheme}`", hint=_SHAPES)
    number = parse_qs(parts.query).get("virtual_host", [""])[0] or parts.path.strip("/")
    if parts.scheme != "redis+socket" and number and not number.isdecimal():
        raise BrokerError(f"broker URL `{mask(url)}`: `{number}` is no number of a database", hint=_SHAPES)
    path = unquote(parts.path) if parts.scheme == "redis+socket" else None
    if path is not None and not path.startswith("/"):
        raise BrokerError(f"broker URL `{mask(url)}` names no socket", hint=_SHAPES)
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
_TO_ENCODE = "/?#[]@"  # what would end the password for whoever reads the URL
_ENCODED = "in a password, write `%40` for `@`, `%2F` for `/`, `%23` for `#`, `%3F` for `?`, `%25` for `%`"


def mask(url: str) -> str:
    """Return the URL without its password, for messages."""
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
    try:
        reply = command(parse_address(url), "PING", timeout=timeout)
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return None if reply == "+PONG" else reply or "it closed the connection"


def command(address: Address, *words: str, timeout: float = 1.0) -> str:
    """Send one command and return the first line of its reply; empty if the server closes the connection.

    Raises:
        OSError: it cannot be reached, or is silent for `timeout` seconds.
    """
    with _connect(address, timeout) as connection:
        lines = connection.makefile("rb")
        if address.password:
            user = [address.username] if address.username else []
            reply = _exchange(connection, lines.readline, "AUTH", *user, address.password)
            if reply != "+OK":
                return reply
        return _exchange(connection, lines.readline, *words)


def _exchange(connection: socket.socket, read_line: Callable[[], bytes], *words: str) -> str:
    """Send one command and read one line."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    connection.sendall(b"".join(parts))
    return read_line().decode(errors="replace").rstrip("\r\n")


def _connect(address: Address, timeout: float) -> socket.socket:
    """Open the connection, through TLS where the address asks for it."""
    if address.path is not None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(address.path)
        except OSError:
            connection.close()
            raise
        return connection
    plain = socket.create_connection((address.host, address.port), timeout=timeout)
    if not address.tls:
        return plain
    context = ssl.create_default_context()
    if not address.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=address.host)
