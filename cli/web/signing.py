"""Signing in with a token of the service, and out again."""

import re

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from endmark.cli.http.access import Access
from endmark.cli.web.door import COOKIE
from endmark.cli.web.forms import proved_form, text_of
from endmark.cli.web.pages import page, visitor_of
from endmark.cli.web.rendering import HEADERS
from endmark.cli.web.sessions import Sessions

_PLACE = re.compile(r"/(jobs/[0-9a-zA-Z]+(/rows/[0-9]+)?)?")


class Signing:
    """The handlers, over one service's tokens and sessions."""

    def __init__(self, access: Access, sessions: Sessions) -> None:
        self._access = access
        self._sessions = sessions

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/sign-in", self.ask),
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
        ]

    def ask(self, request: Request) -> Response:
        """Ask for a token."""
        return page(request, "sign_in.html", to=_place(request.query_params.get("to", "")), refused=False)

    async def sign_in(self, request: Request) -> Response:
        """Begin a session, if the token is one of the service's."""
        async with proved_form(request, self._sessions) as form:
            to, caller = _place(text_of(form, "to")), self._access.caller(text_of(form, "token"))
        if caller is None:
            return page(request, "sign_in.html", 401, to=to, refused=True)
        answer = RedirectResponse(to, 303, HEADERS)
        # A browser that has come by TLS, through a proxy, says so, and is told to come no other way.
        secure = request.headers.get("origin", "").startswith("https://")
        key = self._sessions.begin(caller)
        answer.set_cookie(COOKIE, key, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        async with proved_form(request, self._sessions):
            self._sessions.end(visitor_of(request).key)
        answer = RedirectResponse("/sign-in", 303, HEADERS)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer


def _place(wanted: str) -> str:
    """Return the page of this service that a link has named; the list of jobs if it is none."""
    return wanted if _PLACE.fullmatch(wanted) else "/"
