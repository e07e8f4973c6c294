"""Requests that are refused, in the shape in which the API says so."""

import json
from collections.abc import Mapping

from starlette.responses import Response

_KINDS = {401: "authentication_error", 503: "server_error", 507: "server_error"}


class Refused(Exception):
    """A request is refused.

    Args:
        status: of HTTP.
        message: for the one who asked; it names no place on the server.
        code: a word for programs.
        headers: that the answer has besides.
    """

    def __init__(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the answer as the API has it."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": None, "code": self.code}
        return Response(json.dumps({"error": error}), self.status, self.headers, "application/json")
