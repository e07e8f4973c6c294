"""Connections to `endmark serve` that are slow, idle, broken or malformed."""

import asyncio
import http.client
import random
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from endmark.cli.http import listening
from endmark.cli.http.access import OPEN_ACCESS
from endmark.cli.http.guard import Guard, Limits
from endmark.cli.http.listening import Connection, listen, serve_on
from endmark.cli.main import main
from endmark.jobs.errors import UsageError
from tests.integration.service_fixtures import wait_until

pytestmark = pytest.mark.integration

LARGE = b"x" * 2**24  # more than the kernel takes in for a client that reads nothing
WAITS = threading.Event()  # set when a request to /wait has come


async def hello(scope, receive, send):
    if scope["path"] == "/parts":
        await StreamingResponse(LARGE[:65536] for _ in range(256))(scope, receive, send)
        return
    if scope["path"] == "/wait":
        WAITS.set()
        await Request(scope, receive).body()
    await Response(LARGE if scope["path"] == "/large" else b"hello")(scope, receive, send)


@contextmanager
def serving(app=hello, most=64):
    """A server in a thread of its own; yields the port, and what it knows of its connections."""
    with listen("127.0.0.1", 0) as sockets:
        server = serve_on(Guard(app, OPEN_ACCESS, Limits(1000)), most)
        thread = threading.Thread(target=server.run, args=(sockets,))
        thread.start()
        try:
            yield sockets[0].getsockname()[1], server.server_state
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join()


@pytest.fixture
def hasty(monkeypatch):
    """Patience of a moment."""
    monkeypatch.setattr(Connection, "patience", 0.2)
    monkeypatch.setattr(Connection, "look", 0.05)


@pytest.fixture
def patient(monkeypatch):
    """Patience that a busy machine does not use up between a connection and its request."""
    monkeypatch.setattr(Connection, "patience", 2.0)
    monkeypatch.setattr(Connection, "look", 0.1)


def connected(port, sent=b""):
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(sent)
    return client


def closed(client):
    """Wait until the other side has closed; return what came before."""
    came = b""
    try:
        while part := client.recv(2**16):
            came += part
    except ConnectionResetError:
        pass
    client.close()
    return came


def assert_no_trace(capfd, caplog):
    """No traceback was written, by uvicorn or by asyncio."""
    assert "Traceback" not in capfd.readouterr().err
    assert [record for record in caplog.records if record.exc_info] == []


HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("sent", [b"", b"G", HEAD])
def test_a_connection_without_a_whole_request_is_broken_off(hasty, sent):
    """uvicorn waits for the head of a request for ever, and any number of them wait."""
    with serving() as (port, _):
        assert closed(connected(port, sent)) == b""


def test_a_second_request_that_does_not_come_whole_is_broken_off(patient):
    with serving() as (port, _):
        assert closed(connected(port, HEAD + b"\r\n" + HEAD)).count(b"hello") == 1


def test_a_head_that_comes_a_byte_at_a_time_is_broken_off(hasty):
    with serving() as (port, _):
        client = connected(port, HEAD)
        client.settimeout(0.02)
        with suppress(ConnectionError):
            for _ in range(1000):
                client.sendall(b"x")
                with suppress(TimeoutError):
                    assert client.recv(1) == b""
                    break
            else:
                pytest.fail("it is waited for without end")
        client.close()


@pytest.mark.parametrize("path", [b"/large ", b"/parts "])
def test_a_client_that_reads_no_answer_is_broken_off(hasty, path):
    with serving() as (port, state):
        client = connected(port, HEAD.replace(b"/ ", path) + b"\r\n")
        with suppress(ConnectionResetError):
            client.recv(1)
        wait_until(lambda: not state.connections)
        assert len(closed(client)) < len(LARGE)


def test_a_client_that_asks_now_and_then_is_not(monkeypatch):
    monkeypatch.setattr(Connection, "patience", 0.0)
    monkeypatch.setattr(Connection, "look", 3600.0)
    with serving() as (port, state):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(3):
            client.request("GET", "/")
            assert client.getresponse().read() == b"hello"
            (connection,) = state.connections
            look_at(connection)
        look_at(connection)
        assert client.sock.recv(1) == b""
        wait_until(connection._watch.cancelled)
        client.close()


def look_at(connection):
    """Let the server look at a connection now."""
    looked = threading.Event()
    connection.loop.call_soon_threadsafe(lambda: (connection._look(), looked.set()))
    assert looked.wait(30)


def test_an_idle_connection_does_not_stay(monkeypatch):
    monkeypatch.setattr(listening, "_IDLE", 0.1)
    with serving() as (port, _):
        assert closed(connected(port, HEAD + b"\r\n")).endswith(b"hello")


def test_no_more_connections_than_the_limit_are_answered(monkeypatch):
    monkeypatch.setattr(listening, "_CONNECTIONS", 4)
    with serving() as (port, _):
        idle = [connected(port) for _ in range(4)]
        assert b"503 Service Unavailable" in closed(connected(port, HEAD + b"Connection: close\r\n\r\n"))
        idle.pop().close()
        idle.pop().close()
        deadline = time.monotonic() + 30
        while b"200 OK" not in closed(connected(port, HEAD + b"Connection: close\r\n\r\n")):
            assert time.monotonic() < deadline
        for client in idle:
            client.close()


def test_one_client_takes_no_more_than_its_share(monkeypatch):
    """Whoever opened 256 connections kept all others out."""
    with serving(most=3) as (port, state):
        mine = [connected(port) for _ in range(6)]  # from loopback, which is not counted
        wait_until(lambda: len(state.connections) == 6)
        for client in mine:
            client.close()
        wait_until(lambda: not state.connections)
        monkeypatch.setattr(listening, "_whose", lambda transport: "192.0.2.1")
        mine = [connected(port) for _ in range(3)]
        wait_until(lambda: len(state.connections) == 3)
        assert closed(connected(port)).startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: len(state.connections) == 3)
        monkeypatch.setattr(listening, "_whose", lambda transport: "192.0.2.2")
        assert b"hello" in closed(connected(port, HEAD + b"Connection: close\r\n\r\n"))
        for client in mine:
            client.close()


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("127.0.0.1", None),
        ("127.9.9.9", None),
        ("::1", None),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_whom_a_connection_counts_for(address, whose):
    transport = asyncio.Transport({"peername": (address, 40000)})
    assert listening._whose(transport) == whose


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"Host: example.org\r\n\r\n",
        HEAD + b"X: " + b"x" * 2**17 + b"\r\n\r\n",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET http://example.org/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        HEAD + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_and_leaves_no_trace(patient, sent, capfd, caplog):
    with serving() as (port, _):
        came = closed(connected(port, sent))
        assert not came or came.startswith(b"HTTP/1.1 ")
        assert b" 500 " not in came
        assert b"hello" in closed(connected(port, HEAD + b"Connection: close\r\n\r\n"))
    assert_no_trace(capfd, caplog)


def test_a_head_has_its_limit(patient):
    with serving() as (port, _):
        begun = HEAD + b"Connection: close\r\nX: "
        assert b" 200 " in closed(connected(port, begun + b"x" * 30_000 + b"\r\n\r\n"))
        assert b" 400 " in closed(connected(port, begun + b"x" * 40_000)), "before it is whole"


def test_a_body_that_breaks_while_its_answer_is_on_its_way_leaves_no_trace(patient, capfd, caplog):
    """uvicorn answered 400 in the middle of another answer, and both left a traceback in the log."""
    WAITS.clear()
    for path, began in ((b"/", b""), (b"/large", b""), (b"/wait", b"1\r\nx\r\n")):
        with serving() as (port, _):
            client = connected(
                port, HEAD.replace(b"/ ", path + b" ") + b"Transfer-Encoding: chunked\r\n\r\n" + began
            )
            assert WAITS.wait(30) if path == b"/wait" else client.recv(1)
            client.sendall(b"no number\r\n")
            closed(client)
    assert_no_trace(capfd, caplog)


def test_random_bytes_are_answered_and_leave_no_trace(patient, capfd, caplog):
    made = random.Random(7)
    parts = [
        HEAD,
        b"\r\n",
        b"\r\n\r\n",
        b"POST / HTTP/1.1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\nhello\r\n",
    ]
    parts += [b"0\r\n\r\n", b"\0", b"\xff", b":", b"Content-Length: 3\r\n", b"Expect: 100-continue\r\n"]
    with serving() as (port, _):
        clients = [connected(port, b"".join(made.choices(parts, k=made.randint(1, 12)))) for _ in range(100)]
        for client in clients:
            came = closed(client)
            assert b" 500 " not in came
    assert_no_trace(capfd, caplog)


@pytest.mark.parametrize(
    ("host", "said", "hint"),
    [
        ("127.0.0.1", "Address already in use", "another `--port`"),
        ("192.0.2.1", "Cannot assign", "an address of this machine"),
        ("no.such.host.invalid", "no address", "one of this machine"),
    ],
)
def test_a_place_where_it_cannot_listen_is_named(host, said, hint):
    """uvicorn's own words came with a log line, and exit code 1 without an error."""
    with listen("127.0.0.1", 0) as (taken,):
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=said) as caught, listen(host, port):
            pytest.fail("it listens")
    assert hint in caught.value.hint


def test_a_service_that_is_started_again_has_its_port_at_once():
    """The kernel keeps a connection that the service has closed for a minute."""
    with listen("127.0.0.1", 0) as (listener,):
        port = listener.getsockname()[1]
        client = connected(port)
        listener.accept()[0].close()
        assert closed(client) == b""
    with listen("127.0.0.1", port) as again:
        assert len(again) == 1


def test_a_host_with_two_addresses_is_heard_on_both(monkeypatch):
    """`localhost` is ::1 as well as 127.0.0.1, and a client may ask for either."""
    names = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 0)) for n in (2, 3, 3)]
    names.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)))  # one that this machine lacks
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: names)
    with listen("two.example.org", 0) as sockets:
        assert [item.getsockname()[0] for item in sockets] == ["127.0.0.2", "127.0.0.3"]
    assert [item.fileno() for item in sockets] == [-1, -1]


def test_a_port_in_use_is_an_error_with_a_hint(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path))
    with listen("127.0.0.1", 0) as (taken,):
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"error: cannot listen on 127.0.0.1, port {port}: Address already in use\n\nhint: " in said
