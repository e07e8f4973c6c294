"""What stands before the live page: who asks, from where, and what every answer forbids."""

from http.cookies import SimpleCookie
from urllib.parse import urlencode

import pytest
from starlette.applications import Starlette
from starlette.responses import Response

from endmark.cli.http.access import OPEN_ACCESS, read_access
from endmark.cli.http.guard import Limits
from endmark.cli.web.door import COOKIE, Door, beside
from endmark.cli.web.listing import WantedJobs, links_of, wanted_jobs, wanted_rows
from endmark.cli.web.pages import Pages
from endmark.cli.web.sessions import Sessions
from endmark.cli.web.signing import Signing
from endmark.db.browsing import Found, FoundRow, Wanted
from endmark.db.served import Caller
from tests.unit.asgi import ask

pytestmark = pytest.mark.unit

OWN = {"sec-fetch-site": "same-origin"}


async def hello(scope, receive, send):
    await Response("hello")(scope, receive, send)


def door():
    return Door(hello, OPEN_ACCESS, Limits(1000), Sessions())


@pytest.mark.parametrize("host", ["example.org", "10.0.0.1", "localhost.example.org:8080", ""])
def test_another_name_for_this_machine_is_refused(host):
    """DNS rebinding: a page of another place can give its own name this address, and then read all."""
    answer = ask(door(), headers={"host": host})
    assert answer.status == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "none"}, 200),
        (OWN, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link in a mail
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
    ],
)
def test_pages_are_read_by_their_own_place_alone(told, status):
    assert ask(door(), headers=told).status == status


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (OWN, 200),
        ({"origin": "http://localhost:8000"}, 200),
        ({**OWN, "origin": "http://localhost:8000"}, 200),
        ({}, 403),
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://example.org"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_nothing_is_done_for_a_page_of_another_place(told, status):
    assert ask(door(), "POST", "/jobs", {**told, "content-length": "0"}).status == status


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, Wanted()),
        ({"ending": "length", "q": " Paris "}, Wanted("length", "Paris")),
        ({"ending": "'; DROP TABLE rows"}, Wanted()),
        ({"after": "24"}, Wanted(key=24)),
        ({"before": "24"}, Wanted(key=24, backwards=True)),
        ({"before": "x"}, Wanted()),
        ({"after": "-1"}, Wanted()),
        ({"after": "9" * 400}, Wanted()),
        ({"after": "²"}, Wanted()),
        ({"order": "longest", "after": "60.7"}, Wanted(order="longest", key=7, key_tokens=60)),
        ({"order": "longest", "after": "7", "before": "7"}, Wanted(order="longest")),
        ({"order": "random"}, Wanted()),
        ({"q": "a\0b"}, Wanted(words="ab")),
        ({"q": "x" * 1000}, Wanted(words="x" * 200)),
    ],
)
def test_what_a_query_says_wrongly_counts_as_not_said(query, wanted):
    assert wanted_rows(query) == wanted


@pytest.mark.parametrize(
    ("query", "total", "wanted", "before", "after"),
    [
        ({}, 25, WantedJobs(), None, None),
        ({"from": "x", "q": " a\0b "}, 26, WantedJobs("ab"), None, "/?q=ab&from=25"),
        ({"from": "25"}, 51, WantedJobs("", 25), "/", "/?from=50"),
        ({"from": "30", "q": "a&b"}, 55, WantedJobs("a&b", 30), "/?q=a%26b&from=5", None),
    ],
)
def test_jobs_are_listed_some_at_a_time(query, total, wanted, before, after):
    assert wanted_jobs(query) == wanted
    assert wanted.links(total) == {"before": before, "after": after}


def found(*rows, looked_to=None):
    return Found([FoundRow(row, ["x"], "", False, None, None, False, 60, 0, None) for row in rows], looked_to)


@pytest.mark.parametrize(
    ("shown", "wanted", "before", "after"),
    [
        (found(0, 1), Wanted(), None, None),
        (found(0, 1, looked_to=1), Wanted(words="a b&c"), None, "?q=a+b%26c&after=1#rows"),
        (found(2, 3, looked_to=3), Wanted("eos", key=1), "?ending=eos&before=2#rows", "?ending=eos&after=3#rows"),
        (found(0, 1), Wanted(key=2, backwards=True), None, "?after=1#rows"),
        (found(3, 4, looked_to=3), Wanted(key=5, backwards=True), "?before=3#rows", "?after=4#rows"),
        (found(looked_to=9), Wanted(words="x"), None, "?q=x&after=9#rows"),
        (found(), Wanted(words="x"), None, None),
        (found(8, 3, looked_to=3), Wanted(order="longest"), None, "?order=longest&after=60.3#rows"),
        (found(8, 3), Wanted(order="longest", key=2), None, None),
    ],
)
def test_links_lead_only_where_rows_may_be(shown, wanted, before, after):
    links = links_of(shown, wanted)
    assert (links["before"], links["after"]) == (before, after)


TOKEN = "a-token-of-sufficient-length"
FORM = {"content-type": "application/x-www-form-urlencoded", **OWN}


def guarded(sessions):
    """The pages of a service with a token, without a ledger."""
    access = read_access(None, None, {"ENDMARK_TOKENS": f"alice:{TOKEN}"})
    pages = Pages(None, lambda _: (), lambda: True)
    return Door(pages.app(*Signing(access, sessions).routes()), access, Limits(1000), sessions)


def post(app, path, cookie="", told=FORM, **values):
    body = urlencode(values).encode()
    headers = {**told, "content-length": str(len(body)), "cookie": f"{COOKIE}={cookie}"}
    return ask(app, "POST", path, headers, [body])


def signed_in(sessions, app, **told):
    """Sign in; return the cookie."""
    answer = post(
        app, "/sign-in", proof=sessions.proof(""), token=TOKEN, to="/jobs/3f2a91c0", told={**FORM, **told}
    )
    assert (answer.status, answer.headers["location"]) == (303, "/jobs/3f2a91c0")
    return SimpleCookie(answer.headers["set-cookie"])[COOKIE]


def test_who_has_not_signed_in_is_sent_to_do_so():
    app = guarded(Sessions())
    for path in ("/", "/live", "/jobs/3f2a91c0", "/jobs/3f2a91c0/rows/7"):
        for cookie in ("", "guess"):
            answer = ask(app, path=path, headers={"cookie": f"{COOKIE}={cookie}"})
            assert (answer.status, answer.headers["location"]) == (303, f"/sign-in?{urlencode({'to': path})}")
    assert ask(app, path="/sign-in").status == 200
    assert ask(app, path="/static/pages.css").status == 200


def test_a_token_begins_a_session_and_signing_out_ends_it():
    sessions = Sessions()
    app = guarded(sessions)
    cookie = signed_in(sessions, app)
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"
    assert not cookie["secure"]
    assert TOKEN not in cookie.value
    assert sessions.caller(cookie.value) == Caller("alice")
    assert signed_in(sessions, app, origin="https://endmark.example.org")["secure"]
    key = cookie.value
    assert post(app, "/sign-out", key, proof=sessions.proof("")).status == 403, "a form of no session"
    assert sessions.caller(key) is not None
    assert post(app, "/sign-out", key, proof=sessions.proof(key)).status == 303
    assert sessions.caller(key) is None


@pytest.mark.parametrize("to", ["//example.org", "https://example.org", "/jobs/../../x", "/jobs/1\r\nx: y", ""])
def test_signing_in_leads_nowhere_else(to):
    sessions = Sessions()
    answer = post(guarded(sessions), "/sign-in", proof=sessions.proof(""), token=TOKEN, to=to)
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_a_wrong_token_and_a_form_of_elsewhere_sign_nobody_in():
    sessions = Sessions()
    app = guarded(sessions)
    assert post(app, "/sign-in", proof=sessions.proof(""), token="another-token-of-that-length").status == 401
    assert post(app, "/sign-in", token=TOKEN).status == 403
    assert post(app, "/sign-in", proof=Sessions().proof(""), token=TOKEN).status == 403
    told = {**FORM, "sec-fetch-site": "cross-site"}
    assert post(app, "/sign-in", proof=sessions.proof(""), token=TOKEN, told=told).status == 403
    big = post(app, "/sign-in", proof=sessions.proof(""), token="x" * 2**20)
    assert big.status == 413


def test_sessions_end_by_themselves_and_are_bounded():
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    first = sessions.begin(Caller("alice"))
    for _ in range(1000):
        last = sessions.begin(Caller("bob"))
    assert sessions.caller(first) is None
    assert sessions.caller(last) == Caller("bob")
    now[0] = 12 * 3600.0
    assert sessions.caller(last) is None


@pytest.mark.parametrize(
    ("path", "whose"),
    [
        ("/", b"hello"),
        ("/jobs/1", b"hello"),
        ("/v1/files", b"Not Found"),
        ("/health", b"Not Found"),
        ("/x", b"Not Found"),
    ],
)
def test_the_batch_api_keeps_its_paths(path, whose):
    assert ask(beside(Starlette(), door()), path=path).body == whose
