"""`--on-finish` and `--notify` end to end: the demo model, a worker of its own, a server that listens."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from endmark.cli.main import main
from endmark.db.connection import open_store
from endmark.db.deliveries import deliveries_of
from endmark.jobs.settings import Settings
from endmark.worker.service.deliveries import delivering
from tests.integration.store.ledger import answer, take

pytestmark = pytest.mark.integration
SECRET = "whsec_c2VjcmV0IG9mIHRoaXMgdGVzdCBzdWl0ZQ=="


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    for name in ("ENDMARK_DATABASE_URL", "ENDMARK_BROKER_URL", "ENDMARK_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENDMARK_NOTIFY_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("prompt\nWhat can I do in Paris?\n")


@contextmanager
def listening(*answers):
    """A server that notes requests as (path, headers, body), and answers with these codes, then with 200."""
    came, left, arrived = [], list(answers), threading.Semaphore(0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            came.append((self.path, headers, body))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()
            arrived.release()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came, arrived
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def submitted(capfd, *words):
    assert main(["submit", "data.csv", *words]) == 0
    return capfd.readouterr().out.strip()


def test_run_tells_when_the_results_are_written():
    with listening(500) as (url, came, _):
        command = [Path(sys.executable).with_name("endmark"), "run", "data.csv", "-o", "out.csv"]
        command += [
            "--max-new-tokens",
            "8",
            "--notify",
            f"{url}/hook?token=1",
            "--on-finish",
            "wc -l < out.csv > n",
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
    assert Path("n").read_text().split() == ["2"]
    (path, headers, body), (_, headers_again, _) = came
    assert path == "/hook?token=1"
    told = Webhook(SECRET).verify(body, headers)
    assert (told["type"], told["data"]["state"], told["data"]["succeeded"]) == ("job.ended", "completed", 1)
    assert headers_again["webhook-id"] == headers["webhook-id"]
    assert "Paris" not in body.decode()


def test_a_url_that_fails_harms_no_job(capfd):
    with listening(*[302] * 9) as (url, came, _):
        assert main(["run", "data.csv", "-o", "out.csv", "--max-new-tokens", "8", "--notify", url]) == 0
    err = capfd.readouterr().err
    assert Path("out.csv").read_text().count("\n") >= 2
    assert f"{url} failed: tried 3 times, answered 302; workers try it again" in err
    assert {path for path, *_ in came} == {"/"}
    assert main(["status", "latest"]) == 0
    assert f"at its end      {url} failed: tried 3 times" in capfd.readouterr().out


def test_a_worker_tells_of_jobs_of_any_model(capfd):
    with listening() as (url, came, arrived), open_store(Settings.load().database_url) as store:
        job = submitted(capfd, "--notify", url, "--model", "some/model")
        assert main(["status", job]) == 0
        assert f"at its end      {url} is notified when the job has ended" in capfd.readouterr().out
        answer(store, take(store, model="some/model"))
        with delivering(store, Settings.load(), look=0.05):
            assert arrived.acquire(timeout=30)
        assert [item.state for item in deliveries_of(store, job)] == ["delivered"]
        assert main(["status", job, "--json"]) == 0
        found = json.loads(capfd.readouterr().out)["deliveries"]
        assert [(item["kind"], item["state"], item["attempts"]) for item in found] == [("url", "delivered", 1)]
    assert len(came) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--notify", "ftp://host"], "is no URL to send to"),
        (["--notify", "https://me:word@host/"], "holds a user or a password"),
        (["--on-finish", " "], "names no command"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_is_stored(capfd, words, message):
    assert main(["submit", "data.csv", *words]) == 2
    out, err = capfd.readouterr()
    assert (out, message in err, "hint: " in err) == ("", True, True)
    assert main(["status", "--json"]) == 0
    assert capfd.readouterr().out == "[]\n"


def test_notify_needs_the_secret(capfd, monkeypatch):
    monkeypatch.delenv("ENDMARK_NOTIFY_SECRET")
    assert main(["submit", "data.csv", "--notify", "https://host/"]) == 2
    assert "signs with the secret in ENDMARK_NOTIFY_SECRET, which is not set" in capfd.readouterr().err
