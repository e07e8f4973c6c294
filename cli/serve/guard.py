"""What stands before every request: who may ask, and how much may be sent."""

import hmac
import json
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_JSON_MOST = 2**20  # bytes of a request that uploads nothing
_ENVELOPE = 2**16  # bytes of an upload besides its file
OPEN = "/health"  # asked by health checks


class Refused(Exception):
    """A request is refused.

    Args:
        status: of HTTP.
        message: for the one who asked.
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def body(self) -> bytes:
        """Return the answer's body as the API has it."""
        kind = "authentication_error" if self.status == 401 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


class Guard:
    """Refuses who has no token, web pages that ask a service without tokens, and bodies beyond their size.

    Args:
        app: what is guarded.
        tokens: any of which admits; with none, all are admitted but web pages of other places.
        file_most: bytes of an uploaded file.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str], file_most: int) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]
        self._file_most = file_most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = scope["method"] == "POST" and scope["path"] == "/v1/files"
        most = self._file_most + _ENVELOPE if upload else _JSON_MOST
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise Refused(413, f"the request is larger than {most:,} bytes", "request_too_large")
            return message

        try:
            self._admit(scope, most)
            await self._app(scope, counted, send)
        except Refused as error:
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            if error.status == 401:
                headers.append((b"www-authenticate", b"Bearer"))
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": error.body()})

    def _admit(self, scope: Scope, most: int) -> None:
        """Refuse a request that may not ask, or says that it is too large."""
        headers = Headers(scope=scope)
        if scope["path"] != OPEN:
            kind, _, token = headers.get("authorization", "").partition(" ")
            known = [hmac.compare_digest(token.encode(), item) for item in self._tokens]
            if self._tokens and not (kind.lower() == "bearer" and any(known)):
                raise Refused(
                    401, "give one of the service's tokens as `Authorization: Bearer …`", "invalid_api_key"
                )
            if not self._tokens and "origin" in headers:
                raise Refused(403, "a service without tokens answers no web pages", "forbidden")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            raise Refused(413, f"the request is larger than {most:,} bytes", "request_too_large")
