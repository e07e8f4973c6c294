"""What stands before every request of a browser: who asks, and that no page of another place has sent it."""

from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from endmark.cli.http.access import ANYBODY, Access
from endmark.cli.http.guard import Guard, Limits, check_host
from endmark.cli.http.refusals import Refused
from endmark.cli.web.rendering import HEADERS, rendered
from endmark.cli.web.sessions import Sessions
from endmark.db.served import NOBODY, Caller

COOKIE = "endmark_session"
VISITOR = "endmark.visitor"  # in the scope of an admitted request
_READS = ("GET", "HEAD")
_OWN = frozenset(("", "jobs", "live", "sign-in", "sign-out", "static"))  # how the paths of the pages begin
_UNSIGNED = frozenset(("sign-in", "static"))


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks at a page."""

    key: str  # of the session; empty where there are none
    proof: str  # that a form of the visitor's holds
    caller: Caller


class Door(Guard):
    """The guard of the pages: what it refuses, it tells people.

    A page of another place can make a browser send its user's requests here. Browsers say where a request comes
    from: `Sec-Fetch-Site` or `Origin` must be this place's own, and only a link may be followed from elsewhere.

    Args:
        app: the pages.
        access: whose tokens sign in; where there are none, who uses this machine sees all.
        limits: what a request may cost.
        sessions: who is signed in.
    """

    uploads = "/jobs"

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, sessions: Sessions) -> None:
        super().__init__(app, access, limits)
        self._sessions = sessions

    def refusal(self, error: Refused) -> Response:
        """Return the page that says why a request is refused."""
        text = rendered("refused.html", told=str(error), visitor=None)
        return HTMLResponse(text, error.status, {**error.headers, **HEADERS})

    def admitted(self, scope: Scope, headers: Headers) -> Caller:
        """Return who asks; who has not signed in is sent to do so."""
        if self._access.open:
            check_host(headers)
        check_origin(scope["method"], headers)
        key = HTTPConnection(scope).cookies.get(COOKIE, "") if not self._access.open else ""
        caller = Caller(NOBODY, operator=True) if self._access.open else self._sessions.caller(key)
        if caller is None:
            if _begins(scope["path"]) not in _UNSIGNED:
                query = urlencode({"to": scope["path"]})
                raise Refused(303, "sign in first", "signed_out", {"location": f"/sign-in?{query}"})
            caller, key = ANYBODY, ""
        scope[VISITOR] = Visitor(key, self._sessions.proof(key), caller)
        return caller


def check_origin(method: str, headers: Headers) -> None:
    """Refuse what another place has made a browser send.

    Raises:
        Refused: it is such a request.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if method in _READS:
        own = site in (None, "none", "same-origin") or headers.get("sec-fetch-mode") == "navigate"
    elif site is not None:
        own = site == "same-origin"
    else:
        own = origin is not None and urlsplit(origin).netloc == headers.get("host")
    if not own:
        raise Refused(403, "this request comes from another place", "forbidden")


def beside(api: ASGIApp, pages: ASGIApp) -> ASGIApp:
    """Return an application that has the pages at their paths, and the Batch API at all others."""

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = pages if _begins(scope["path"]) in _OWN else api
        await chosen(scope, receive, send)

    return both


def _begins(path: str) -> str:
    """Return the first part of a path."""
    return path.removeprefix("/").partition("/")[0]
