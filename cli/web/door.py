"""What stands before every request of a browser: this machine alone, and no page of another place."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from endmark.cli.serve.guard import Guard, check_host
from endmark.cli.serve.refusals import Refused
from endmark.cli.web.rendering import HEADERS, rendered
from endmark.db.served import NOBODY, Caller

_READS = ("GET", "HEAD")


class Door(Guard):
    """The guard of the pages: what it refuses, it tells people.

    A page of another place can make a browser send its user's requests here. Browsers say where a request comes
    from: `Sec-Fetch-Site` or `Origin` must be this place's own, and only a link may be followed from elsewhere.
    """

    uploads = "/jobs"

    def refusal(self, error: Refused) -> Response:
        """Return the page that says why a request is refused."""
        return HTMLResponse(rendered("refused.html", told=str(error)), error.status, {**error.headers, **HEADERS})

    def admitted(self, scope: Scope, headers: Headers) -> Caller:
        """Return who asks: who uses this machine sees all jobs."""
        check_host(headers)
        check_origin(scope["method"], headers)
        return Caller(NOBODY, operator=True)


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
