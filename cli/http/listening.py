"""Listening: the sockets, and what a connection may cost before and after its requests."""

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from endmark.jobs.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_CONNECTIONS = 256  # at once, idle ones too; those beyond are answered 503
CLIENT_CONNECTIONS = 64  # of them, of one client's address
_HEAD_MOST = 2**15  # bytes of a request's line and headers
_IDLE = 10  # seconds between two requests
_BACKLOG = 128
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # this machine has no such address


@contextmanager
def listen(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Give sockets that listen, one for each address that the host has on this machine.

    Raises:
        UsageError: the host is not this machine's, or the port is in use or reserved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"`--host {host}` is no address: {error}", hint="name one of this machine") from error
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        refused: OSError | None = None
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(stack.enter_context(_listener(family, address)))
            except OSError as error:
                if error.errno not in _LACKING:
                    raise _unheard(host, port, error) from error
                refused = error  # such as `localhost` as ::1 where there is no IPv6
        if not sockets:
            assert refused is not None
            raise _unheard(host, port, refused) from refused
        yield sockets


def _listener(family: int, address: Any) -> socket.socket:  # noqa: ANN401 - as getaddrinfo has it
    """Return a socket that listens on one address."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _unheard(host: str, port: int, error: OSError) -> UsageError:
    """Return the error for a place where nobody can listen."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "name an address of this machine" if error.errno in _LACKING else "choose another `--port`"
    return UsageError(f"cannot listen on {host}, port {port}: {reason}", hint=hint)


def serve_on(app: "ASGIApp", client_connections: int = CLIENT_CONNECTIONS) -> uvicorn.Server:
    """Return the server of an application; to be run on sockets.

    Args:
        client_connections: at once from one address; those beyond are closed with 503.
    """

    class Bounded(Connection):
        """A connection of this server."""

        most = client_connections

    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed form
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Bounded,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_IDLE,
            h11_max_incomplete_event_size=_HEAD_MOST,
            proxy_headers=False,
        )
    )


def _whose(transport: asyncio.Transport) -> str | None:
    """Return whom a connection counts for: an IPv4 address, or the /64 of an IPv6 one; None on this machine."""
    address = ipaddress.ip_address(transport.get_extra_info("peername")[0].partition("%")[0])
    if address.is_loopback:  # a proxy, behind which are many clients, or people who can do worse
        return None
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


class Connection(H11Protocol):
    """A connection that is closed where nothing moves: no head of a request comes whole, or no answer is read.

    uvicorn itself waits for both without end. How slowly a body may come is the guard's.
    """

    patience: ClassVar[float] = 30.0  # seconds
    look: ClassVar[float] = 5.0  # seconds
    most: ClassVar[int] = CLIENT_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to watch; one too many of its client is closed at once, and takes no other client's place."""
        super().connection_made(transport)
        self.whose = _whose(transport)
        self._seen: object = None
        self._since = self.loop.time()
        self._watch = self.loop.call_later(self.look, self._look)
        others = cast("set[Connection]", self.connections)
        if self.whose is not None and sum(other.whose == self.whose for other in others) > self.most:
            self.transport.write(_TOO_MANY)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch."""
        self._watch.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request; an answer that is on its way ends instead."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _look(self) -> None:
        """Break the connection off if it has stood still for too long."""
        standing = self._standing()
        if standing is None or standing != self._seen:
            self._seen, self._since = standing, self.loop.time()
        elif self.loop.time() - self._since >= self.patience:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(self.look, self._look)

    def _standing(self) -> object:
        """Return what the other side is waited for, which differs when it has done its part; None if it is not."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            return unsent
        waits = self.cycle is None or self.cycle.response_complete
        return ("head", self.cycle) if waits else None
