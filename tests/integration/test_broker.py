"""Endmark's own broker: found, started once, shared, revived and ended, by real server processes."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from endmark.jobs.broker.access import broker_reachable, ensure_broker, find_broker
from endmark.jobs.broker.address import client, mask, parse_address
from endmark.jobs.broker.server import find_binary
from endmark.jobs.errors import BrokerError
from endmark.jobs.settings import Settings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.settings import Settings
broker = ensure_broker(Settings(Path(sys.argv[1]), "", None))
print(broker.started_here, flush=True)
sys.stdin.read()
broker.release()
"""


def settings_of(home: Path) -> Settings:
    home.mkdir(parents=True, exist_ok=True)
    return Settings(home, "", None)


def hold(home: Path) -> subprocess.Popen:
    """A process that uses the broker until its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def finish(process: subprocess.Popen) -> None:
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_first_user_starts_it_and_the_last_one_ends_it(tmp_path):
    settings = settings_of(tmp_path)
    assert find_broker(settings) is None
    first = ensure_broker(settings)
    second = ensure_broker(settings)
    assert (first.started_here, second.started_here) == (True, False)
    assert find_broker(settings) == first.url == second.url
    first.release()
    assert broker_reachable(second.url)
    second.release()
    second.release()
    assert find_broker(settings) is None
    assert not (tmp_path / "broker" / "broker.pid").exists()


def test_messages_survive_the_end_of_the_server(tmp_path):
    settings = settings_of(tmp_path)
    for reply in (1, 2):
        with ensure_broker(settings) as broker:
            assert client(parse_address(broker.url)).lpush("list", "item") == reply


def test_only_its_owner_can_reach_it(tmp_path):
    with ensure_broker(settings_of(tmp_path)) as broker:
        folder = tmp_path / "broker"
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "broker.sock")}
        assert modes == {"broker": 0o700, "broker.sock": 0o700}
        assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.glob("broker.*"))
        assert client(parse_address(broker.url)).config_get("port") == {"port": "0"}
        listening = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=False).stdout
        assert ":18EB 00000000:0000 0A" not in listening  # port 6379


def test_two_starters_at_once_start_one_server(tmp_path):
    processes = [hold(tmp_path) for _ in range(3)]
    said = sorted(process.stdout.readline().strip() for process in processes)
    assert said == ["False", "False", "True"]
    for process in processes:
        finish(process)
    assert find_broker(settings_of(tmp_path)) is None


def test_it_survives_its_starter_while_another_uses_it(tmp_path):
    starter = hold(tmp_path)
    assert starter.stdout.readline() == "True\n"
    with ensure_broker(settings_of(tmp_path)) as broker:
        assert not broker.started_here
        finish(starter)
        assert broker_reachable(broker.url)
    assert not broker_reachable(broker.url)


def test_a_killed_user_does_not_count(tmp_path):
    killed = hold(tmp_path)
    assert killed.stdout.readline() == "True\n"
    killed.kill()
    killed.communicate(timeout=30)
    broker = ensure_broker(settings_of(tmp_path))
    assert not broker.started_here
    broker.release()
    assert not broker_reachable(broker.url)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hanging_server_is_started_again_with_its_messages(tmp_path, how):
    with ensure_broker(settings_of(tmp_path)) as broker:
        address = parse_address(broker.url)
        client(address).lpush("list", "item")
        client(address).waitaof(1, 0, 2000)
        old = broker.server.pid()
        os.kill(old, how)
        deadline = time.monotonic() + 5
        while broker_reachable(broker.url, 0.2) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert broker.revive()
        assert not broker.revive()
        assert broker.server.pid() != old
        assert client(address).llen("list") == 1


def test_a_home_with_a_long_path_gets_a_short_socket(tmp_path):
    home = tmp_path / ("a" * 60) / ("b" * 60)
    with ensure_broker(settings_of(home)) as broker:
        path = Path(parse_address(broker.url).path)
        assert len(str(path)) < 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert find_broker(settings_of(home)) == broker.url
    path.parent.chmod(0o755)
    with pytest.raises(BrokerError, match="not a private folder"):
        ensure_broker(settings_of(home))
    path.parent.rmdir()


def test_a_server_that_cannot_start_is_said_with_its_log_and_the_fix(tmp_path):
    folder = tmp_path / "broker" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(BrokerError) as caught:
        ensure_broker(settings_of(tmp_path))
    assert "AOF" in str(caught.value)
    assert str(tmp_path / "broker" / "broker.log") in caught.value.hint


def test_a_broker_that_is_set_is_used_and_not_replaced(tmp_path):
    with ensure_broker(settings_of(tmp_path / "one")) as theirs:
        settings = Settings(tmp_path, "", theirs.url)
        with ensure_broker(settings) as ours:
            assert (ours.url, ours.started_here) == (theirs.url, False)
            assert not ours.revive()
        assert broker_reachable(theirs.url)
    assert find_broker(settings) == theirs.url
    with pytest.raises(BrokerError, match="does not answer"):
        ensure_broker(settings)


def test_a_password_is_used_and_never_shown(tmp_path):
    path = tmp_path / "s"
    server = subprocess.Popen(
        [find_binary(), "--port", "0", "--unixsocket", str(path), "--requirepass", "secret", "--save", ""],
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    url = f"redis+socket://:secret@{path}"
    deadline = time.monotonic() + 60
    while not broker_reachable(url) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        assert broker_reachable(url)
        with pytest.raises(BrokerError, match="Authentication required") as caught:
            ensure_broker(Settings(tmp_path, "", f"redis+socket://{path}"))
        with pytest.raises(BrokerError, match="invalid username-password pair") as caught:
            ensure_broker(Settings(tmp_path, "", f"redis+socket://:wrong@{path}"))
        assert "wrong@" not in str(caught.value)
    finally:
        server.terminate()
        server.wait()
    assert mask("redis://user:secret@host/0") == "redis://user:***@host/0"


@pytest.mark.parametrize("url", ["amqp://localhost", "redis://host:port", "redis+socket://relative", "nonsense"])
def test_a_url_of_another_kind_is_refused(tmp_path, url):
    with pytest.raises(BrokerError) as caught:
        ensure_broker(Settings(tmp_path, "", url))
    assert "redis://" in caught.value.hint
