"""What stands before the live page: who asks, from where, and what every answer forbids."""

import pytest
from starlette.responses import Response

from endmark.cli.serve.access import OPEN_ACCESS
from endmark.cli.serve.guard import Limits
from endmark.cli.web.door import Door
from endmark.cli.web.pages import _query, _wanted
from endmark.db.browsing import Wanted
from tests.unit.asgi import ask

pytestmark = pytest.mark.unit

OWN = {"sec-fetch-site": "same-origin"}


async def hello(scope, receive, send):
    await Response("hello")(scope, receive, send)


def door():
    return Door(hello, OPEN_ACCESS, Limits(1000))


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
        ({"q": "a\0b"}, Wanted(words="ab")),
        ({"q": "x" * 1000}, Wanted(words="x" * 200)),
    ],
)
def test_what_a_query_says_wrongly_counts_as_not_said(query, wanted):
    assert _wanted(query) == wanted


def test_links_lead_only_where_rows_may_be():
    asked = {"ending": "eos", "q": "a b&c"}
    assert _query(asked, None) == "?ending=eos&q=a+b%26c#rows"
    assert _query(asked, 0, "after") == "?ending=eos&q=a+b%26c&after=0#rows"
    assert _query(asked, 0, "before") is None
    assert _query(asked, None, "after") is None
