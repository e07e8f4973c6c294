"""What stands before every request of `endmark serve`."""

from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from endmark.cli.http.access import read_access
from endmark.cli.http.guard import Guard, Limits
from tests.unit.asgi import HANGS_UP, SILENCE, ask

pytestmark = pytest.mark.unit

TOKEN = "a-token-of-sufficient-length"
BEARER = {"authorization": f"Bearer {TOKEN}"}
FILES = "/v1/files"


async def counting(scope, receive, send):
    """Says how much came."""
    body = await Request(scope, receive).body()
    await Response(str(len(body)))(scope, receive, send)


async def not_reading(scope, receive, send):
    """Answers at once."""
    await Response("hello")(scope, receive, send)


def guard(app=counting, tokens=(), **limits):
    access = read_access(None, None, {"ENDMARK_TOKENS": ",".join(tokens)})
    return Guard(app, access, Limits(**{"file_most": 1000, **limits}))


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:8000"]
)
def test_without_tokens_this_machine_is_asked_as_itself(host):
    assert ask(guard(), headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.org",
        "example.org:8000",
        "localhost.example.org",
        "127.0.0.1.example.org",
        "0.0.0.0",
        "10.0.0.1",
        "127.0.0.1@example.org",
        "[2001:db8::1]",
        "[::1].example.org",
        "localhost:80.example.org",
        "2130706433",
    ],
)
def test_without_tokens_another_name_for_this_machine_is_refused(host):
    """A page that a browser shows can give its own name this address (DNS rebinding), and then read all."""
    for path in ("/v1/files", "/v1/batches", "/health"):
        answer = ask(guard(), path=path, headers={"host": host})
        assert (answer.status, answer.error["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "told",
    [{"origin": "https://example.org"}, {"origin": "null"}, {"origin": "http://localhost:8000"}, {"origin": ""}]
    + [{"sec-fetch-site": kind} for kind in ("cross-site", "same-site", "same-origin")],
)
def test_without_tokens_no_web_page_is_answered(told):
    answer = ask(guard(), "POST", FILES, told)
    assert (answer.status, answer.error["code"]) == (403, "forbidden")
    assert answer.taken == 0
    assert ask(guard(), headers={"sec-fetch-site": "none"}).status == 200, "typed in by its user"
    assert ask(guard(tokens=[TOKEN]), headers={**told, **BEARER}).status == 200, "a page has no token but its own"


def test_with_tokens_any_name_will_do_and_any_of_them():
    asked = guard(tokens=[TOKEN, "another-token-of-that-length"])
    for token in (TOKEN, "another-token-of-that-length"):
        for kind in ("Bearer", "bearer"):
            answer = ask(asked, headers={"host": "example.org", "authorization": f"{kind} {token}"})
            assert answer.status == 200


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN} ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer  {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {'ÿ' * len(TOKEN)}",
    ],
)
def test_who_has_no_token_is_told_how_to_give_one(given):
    answer = ask(guard(tokens=[TOKEN]), headers={"authorization": given} if given else {})
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert (answer.error["type"], answer.error["code"]) == ("authentication_error", "invalid_api_key")
    assert TOKEN not in answer.body.decode()


def test_health_needs_no_token_and_nothing_else_does_without():
    assert ask(guard(tokens=[TOKEN]), path="/health").status == 200
    for path in ("/health/", "/healthy", "/v1/health", "//health"):
        assert ask(guard(tokens=[TOKEN]), path=path).status == 401


def upload(size, *, chunked, path=FILES, method="POST", **limits):
    parts = [b"x" * 100] * (size // 100) + [b"x" * (size % 100)]
    return ask(guard(**limits), method, path, {} if chunked else {"content-length": str(size)}, parts)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_be_as_large_as_its_limit_and_no_larger(chunked):
    """A chunked upload said nothing of its size, and no test would have seen it pass the limit."""
    most = 1000 + 2**16
    assert upload(most, chunked=chunked).body == str(most).encode()
    answer = upload(most + 1, chunked=chunked)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert f"{most:,} bytes" in answer.error["message"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/batches"), ("GET", FILES), ("POST", "/v1/files/")])
def test_what_is_no_upload_is_bounded_by_a_mebibyte(chunked, method, path):
    limits = {"chunked": chunked, "method": method, "path": path, "file_most": 2**30}
    assert upload(2**20, **limits).status == 200
    assert upload(2**20 + 1, **limits).status == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "²", "", "0x10", "99999999999999999999"])
def test_a_length_that_is_none_is_refused(length):
    answer = ask(guard(), "POST", FILES, {"content-length": length}, [b"x"])
    assert answer.status == 413


def test_who_is_refused_may_go_on_sending_before_it_reads_why():
    """The answer came while the client was still sending, and it saw a broken connection instead."""
    for app, status in ((counting, 413), (not_reading, 200)):
        answer = ask(guard(app, file_most=0), "POST", FILES, parts=[b"x" * 2**17] * 5)
        assert (answer.status, answer.taken, answer.headers["connection"]) == (status, 5, "close")
    assert ask(guard(tokens=[TOKEN]), "POST", FILES, parts=[b"x"] * 3).taken == 3
    assert "connection" not in ask(guard(), "POST", FILES, parts=[b"x"] * 3).headers


def test_it_does_not_go_on_for_ever():
    answer = ask(guard(not_reading, linger=0.01), "POST", FILES, parts=[b"x", SILENCE])
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_a_body_that_comes_too_slowly_is_refused():
    answer = ask(guard(patience=0.01, linger=0.01), "POST", FILES, parts=[b"x", SILENCE])
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert ask(guard(patience=0, slowest=1e-9), "POST", FILES, parts=[b"x", b"x"]).status == 408, "not one part"


@pytest.mark.parametrize(("slowest", "status"), [(1.0, 200), (10.0, 408)])
def test_a_large_body_has_the_time_that_its_size_allows(monkeypatch, slowest, status):
    """Parts of 10 bytes, one in 3 seconds, and 5 seconds besides."""
    now = 0.0

    async def late(scope, receive, send):
        async def slowly():
            nonlocal now
            now += 3.0
            return await receive()

        await guard(patience=5.0, slowest=slowest, linger=0.0)(scope, slowly, send)

    monkeypatch.setattr("endmark.cli.http.guard.time", SimpleNamespace(monotonic=lambda: now))
    assert ask(late, "POST", FILES, parts=[b"x" * 10] * 8).status == status


def test_a_client_that_hangs_up_is_no_failure():
    """Each was a traceback in the log."""
    assert ask(guard(), "POST", FILES, parts=[b"x", HANGS_UP]).status is None
    assert ask(guard(file_most=0), "POST", FILES, parts=[b"x" * 2**17, HANGS_UP]).status == 413
