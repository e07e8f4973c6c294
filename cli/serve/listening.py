"""Listening: the socket, and what a connection may cost before and after its requests."""

import asyncio
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from endmark.jobs.errors import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_CONNECTIONS = 256  # at once, idle ones too; those beyond are answered 503
_HEAD_MOST = 2**15  # bytes of a request's line and headers
_IDLE = 10  # seconds between two requests
_BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UsageError: the host is not this machine's, or the port is in use or reserved.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"`--host {host}` is no address: {error}", hint="name one of this machine") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = (
            "name an address of this machine" if error.errno == errno.EADDRNOTAVAIL else "choose another `--port`"
        )
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}", hint=hint) from error
    return listener


def serve_on(app: "ASGIApp") -> uvicorn.Server:
    """Return the server of an application; to be run on a socket."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed form
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
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


class Connection(H11Protocol):
    """A connection that is broken off where nothing moves: no head of a request comes whole, or no answer is read.

    uvicorn itself waits for both without end. How slowly a body may come is the guard's.
    """

    patience: ClassVar[float] = 30.0  # seconds
    look: ClassVar[float] = 5.0  # seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to watch."""
        super().connection_made(transport)
        self._seen: object = None
        self._since = self.loop.time()
        self._watch = self.loop.call_later(self.look, self._look)

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
