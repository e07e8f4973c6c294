"""The wire delays, loses and forgets what it is told to, one way or both; a host's clock is its own."""

import subprocess
import sys
import time

import pytest

from tests.cluster.host import COMPILER, Host, why_no_hosts
from tests.cluster.wire import Wire
from tests.integration.service_fixtures import wait_until

REASON = why_no_hosts()
pytestmark = [pytest.mark.integration, pytest.mark.skipif(REASON is not None, reason=f"no hosts here: {REASON}")]
ECHO = """
import socket, threading
def serve(one):
    while data := one.recv(100):
        one.sendall(data)
with socket.create_server(("10.78.0.1", 7)) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""
ASK = """
import socket, sys, time
link = socket.create_connection(("10.78.0.1", 7))
print("open", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    link.sendall(b"x")
    link.recv(1)
    print(time.monotonic() - began, flush=True)
"""


class Asker:
    """A connection from the second host to the first one's echo."""

    def __init__(self, host):
        self.process = host.start(
            [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdout.readline() == "open\n"

    def ask(self):
        """Send a byte."""
        self.process.stdin.write("\n")

    def took(self):
        """How long its echo took."""
        return float(self.process.stdout.readline())


@pytest.fixture
def net(tmp_path):
    """The wire, and a function that opens a connection over it."""
    wire = Wire(seed=1)
    server, client = (
        Host(wire, name, f"10.78.0.{number}", tmp_path / name) for number, name in ((1, "a"), (2, "b"))
    )
    wire.start()
    echo = server.start([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    assert echo.stdout.readline() == "ready\n"
    askers = []

    def connect():
        askers.append(Asker(client))
        return askers[-1]

    yield wire, connect
    for process in (echo, *(asker.process for asker in askers)):
        process.kill()
        process.communicate()
    wire.close()
    for host in (server, client):
        host.remove()


def test_a_delay_is_felt_each_way(net):
    wire, connect = net
    asker = connect()
    wire.link("10.78.0.1", "10.78.0.2").delay = 0.2
    wire.link("10.78.0.2", "10.78.0.1").delay = 0.1
    asker.ask()
    assert 0.3 <= asker.took() < 2.0


@pytest.mark.parametrize("way", [("10.78.0.1", "10.78.0.2"), ("10.78.0.2", "10.78.0.1")], ids=["back", "out"])
def test_a_cut_one_way_holds_the_echo_until_it_is_healed(net, way):
    wire, connect = net
    asker = connect()
    wire.link(*way).cut = True
    dropped = wire.dropped
    asker.ask()
    wait_until(lambda: wire.dropped >= dropped + 2)  # and sent again
    wire.heal()
    assert asker.took() > 0.1


def test_a_forgotten_connection_is_half_open_and_a_new_one_works(net):
    wire, connect = net
    old = connect()
    wire.forget_flows("10.78.0.2")
    dropped = wire.dropped
    old.ask()
    wait_until(lambda: wire.dropped > dropped)
    new = connect()
    new.ask()
    assert new.took() < 2.0
    assert old.process.poll() is None


@pytest.mark.skipif(COMPILER is None, reason="a clock needs a C compiler")
def test_a_clock_is_put_on_and_back_while_sleeps_stay_as_they_are(tmp_path):
    """libfaketime, in whose place this is, made Python's sleep fail with EINVAL."""
    wire = Wire()
    host = Host(wire, "a", "10.78.0.1", tmp_path)
    wire.start()
    words = "import time, sys\nfor _ in sys.stdin:\n time.sleep(0.01); print(time.time(), flush=True)"
    process = host.start(
        [sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        for ahead in (0, 3600, -3600, 0):
            host.set_clock(ahead)
            process.stdin.write("\n")
            assert abs(float(process.stdout.readline()) - time.time() - ahead) < 60
        host.set_clock(0, gains=3_600_000_000)  # an hour a second
        began = time.monotonic()
        drifted = 0.0
        while drifted < 3600:  # a second, on any machine
            process.stdin.write("\n")
            drifted = float(process.stdout.readline()) - time.time()
        assert 0.9 < time.monotonic() - began < 60
    finally:
        process.communicate()
        wire.close()
        host.remove()
