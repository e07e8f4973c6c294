"""What stands before every request: who may ask, how much may be sent, and how slowly."""

import asyncio
import re
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from endmark.cli.http.access import ANYBODY, Access, is_loopback
from endmark.cli.http.refusals import Refused
from endmark.db.served import Caller

_JSON_MOST = 2**20  # bytes of a request that uploads nothing
_ENVELOPE = 2**16  # bytes of an upload besides its file
_HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[]*))(?::[0-9]*)?")
OPEN = "/health"  # asked by health checks
CALLER = "endmark.caller"  # in the scope of an admitted request


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost."""

    file_most: int  # bytes of an uploaded file
    patience: float = 60.0  # seconds that a body may take, besides those that its size allows it
    slowest: float = 2.0**14  # bytes a second
    linger: float = 10.0  # seconds in which a client that is refused may go on sending before it reads why


class Guard:
    """Refuses who has no token, web pages that ask a service without tokens, and bodies beyond the limits.

    A page of another place can make a browser ask this machine: its own `Origin` tells, or the name by which it
    calls this machine where that name is one of its own (DNS rebinding).

    Args:
        app: what is guarded.
        access: who is admitted; where no token is asked for, all who ask this machine as itself.
    """

    uploads = "/v1/files"  # the path to which files may be sent

    def __init__(self, app: ASGIApp, access: Access, limits: Limits) -> None:
        self._app = app
        self._access = access
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = Headers(scope=scope)
        upload = scope["method"] == "POST" and scope["path"] == self.uploads
        most = self._limits.file_most + _ENVELOPE if upload else _JSON_MOST
        body = _Body(receive, headers, most, self._limits)

        async def answer(message: Message) -> None:
            if not body.unread:
                await send(message)
            elif message["type"] == "http.response.start":
                await send({**message, "headers": [*message["headers"], (b"connection", b"close")]})
            elif message.get("more_body"):
                await send(message)
            else:  # whoever is still sending would not read an answer to a closed connection
                await send({**message, "more_body": True})
                await body.drain()
                await send({"type": "http.response.body"})

        try:
            try:
                scope[CALLER] = self.admitted(scope, headers)
                body.check_length()
                await self._app(scope, body.receive, answer)
            except Refused as error:
                await self.refusal(error)(scope, receive, answer)
        except ClientDisconnect:
            return  # nobody is left to be answered

    def refusal(self, error: Refused) -> Response:
        """Return the answer to a request that is refused."""
        return error.response()

    def admitted(self, scope: Scope, headers: Headers) -> Caller:
        """Return who asks, or refuse a request that may not."""
        if self._access.open:
            check_host(headers)
            if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
                raise Refused(403, "a service without tokens answers no web pages", "forbidden")
            return ANYBODY
        if scope["path"] == OPEN:
            return ANYBODY
        kind, _, token = headers.get("authorization", "").partition(" ")
        caller = self._access.caller(token) if kind.lower() == "bearer" else None
        if caller is None:
            raise Refused(
                401,
                "give one of the service's tokens as `Authorization: Bearer …`",
                "invalid_api_key",
                {"www-authenticate": "Bearer"},
            )
        return caller


class _Body:
    """The body of one request as it comes in, no larger and no slower than it may be."""

    def __init__(self, receive: Receive, headers: Headers, most: int, limits: Limits) -> None:
        self._receive = receive
        self._length = headers.get("content-length", "0")
        self._most = most
        self._limits = limits
        self._begun = time.monotonic()
        self._taken = 0
        self.unread = "transfer-encoding" in headers or self._length != "0"  # more of it may come

    def check_length(self) -> None:
        """Refuse a body that says that it is too large."""
        if not self._length.isdecimal() or int(self._length) > self._most:
            raise self._too_large()

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            Refused: it is too large, or comes too slowly.
        """
        if not self.unread:
            return await self._receive()
        allowed = self._limits.patience + self._taken / self._limits.slowest
        try:
            message = await self._next(allowed - (time.monotonic() - self._begun))
        except TimeoutError as error:
            raise Refused(408, "the request came too slowly", "request_timeout") from error
        if self._taken > self._most:
            raise self._too_large()
        return message

    async def drain(self) -> None:
        """Pass over what is left, for a while."""
        end = time.monotonic() + self._limits.linger
        while self.unread:
            try:
                await self._next(end - time.monotonic())
            except TimeoutError:
                return

    async def _next(self, seconds: float) -> Message:
        """Return the next part, if it comes within so many seconds."""
        message = await asyncio.wait_for(self._receive(), max(seconds, 0))
        self._taken += len(message.get("body", b""))
        self.unread = message.get("more_body", False)
        return message

    def _too_large(self) -> Refused:
        return Refused(413, f"the request is larger than {self._most:,} bytes", "request_too_large")


def check_host(headers: Headers) -> None:
    """Refuse a request that calls this machine by a name that is not its own.

    Raises:
        Refused: it is one.
    """
    if not is_loopback(_name(headers.get("host", ""))):
        raise Refused(403, "a service without tokens answers to `localhost` alone", "forbidden")


def _name(host: str) -> str:
    """Return the name in a `Host` header, without the port; empty if it is none."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]) if found else ""
