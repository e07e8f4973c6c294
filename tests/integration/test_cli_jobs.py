"""Commands around a job, as their user calls them, on a real database and a real broker; no worker runs."""

import csv
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from endmark.cli import submission
from endmark.cli.main import main
from endmark.db.connection import open_store
from endmark.db.jobs import cancel_job, load_job
from endmark.db.shards import claim
from endmark.db.workers import report_worker
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.errors import StoreError
from endmark.jobs.progress import WorkerReport
from endmark.jobs.queue import waiting_messages
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import submit as service_submit

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("ENDMARK_DATABASE_URL", "ENDMARK_BROKER_URL", "ENDMARK_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def call(home, capfd):
    """Run a command in this process; return its exit code, standard output and standard error."""

    def run(*words):
        code = main([str(word) for word in words])
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def store(home):
    with open_store(Settings.load().database_url) as store:
        yield store


def dataset(text, name="data.csv"):
    Path(name).write_text(text, encoding="utf-8")
    return name


def submitted(call, text="id,prompt\n1,one\n2,two\n", *words):
    code, out, err = call("submit", dataset(text), *words)
    assert code == 0, err
    assert out == out.strip() + "\n"
    return out.strip()


def test_submit_prints_the_id_alone_and_says_that_no_worker_runs(call, store):
    code, out, err = call("submit", dataset("id,prompt\n1,one\n"), "--model", "some/model", "--priority", "3")
    assert code == 0
    job = load_job(store, out.strip())
    assert (job.name, job.total, job.priority, job.columns) == ("data.csv", 1, 3, ("id", "prompt"))
    assert job.spec.model == "some/model"
    assert "hint: no worker runs" in err
    assert "`endmark worker --model some/model`" in err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("amqp://h:1", "unknown scheme `amqp`"),
        ("sentinel://h:1", "names no master"),
        ("redis://h:99999", "Port out of range"),
        ("redis://h:1/jobs", "`jobs` is no number of a database"),
        ("redis+socket://path", "names no socket"),
        ("redis://:p@ss/w0rd@h:1", "its password is not %-encoded"),
        ("redis://:pa#s@h:1/0", "its password is not %-encoded"),
    ],
)
@pytest.mark.parametrize("command", ["submit", "run", "compare"])
def test_a_broker_url_that_is_none_is_told_before_a_job_is_stored(call, monkeypatch, command, url, message):
    """The id was printed and then the error: a script that tried again stored the job twice."""
    monkeypatch.setenv("ENDMARK_BROKER_URL", url)
    words = {"submit": [], "run": ["-o", "out.csv"], "compare": ["-o", "out.html"]}[command]
    code, out, err = call(command, dataset("prompt\nx\n"), *words)
    assert (code, out) == (1, "")
    assert message in err
    assert "hint: " in err
    assert "%40" in err or "password" not in message
    assert not [part for part in ("w0rd", "pa#s", "ss/") if part in err]
    assert call("status", "--json")[1] == "[]\n"


def test_a_broker_that_is_away_is_told_before_run_stores_a_job(call, monkeypatch):
    monkeypatch.setenv("ENDMARK_BROKER_URL", "redis://127.0.0.1:1/0")
    code, _, err = call("run", dataset("prompt\nx\n"), "-o", "out.csv")
    assert code == 1
    assert "does not answer: Connection refused" in err
    assert call("status", "--json")[1] == "[]\n"


@pytest.mark.parametrize("model", ["dmeo", "Llama-2-7b", "./no-such-folder", "some/mo del"])
def test_a_misspelt_model_is_told_before_a_job_is_stored(call, model):
    code, _, err = call("submit", dataset("prompt\nx\n"), "--model", model)
    assert code == 2
    assert f"`{model}`" in err
    assert "hint: " in err
    assert call("status", "--json")[1] == "[]\n"


def test_run_needs_the_folder_that_submit_may_leave_to_workers_elsewhere(call):
    assert call("submit", dataset("prompt\nx\n"), "--model", "/no/such/folder")[0] == 0
    code, _, err = call("run", dataset("prompt\nx\n"), "-o", "out.csv", "--model", "/no/such/folder")
    assert code == 2
    assert "there is no model folder `/no/such/folder`" in err


def test_the_home_is_its_owners_alone(home):
    """It holds prompts and answers, and was readable by everyone on the machine."""
    mask = os.umask(0)
    try:
        Path("data.csv").write_text("prompt\nx\n")
        settings = Settings.load()
        with ensure_broker(settings):
            subprocess.run([ENDMARK, "submit", "data.csv"], check=True, capture_output=True)
            found = {str(path.relative_to(home)): path.lstat().st_mode & 0o777 for path in home.rglob("*")}
            assert {"endmark.db", "broker/broker.sock", "broker/users.lock"} <= found.keys()
            assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}
            assert home.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(mask)


def test_status_of_all_and_of_one(call):
    assert "no jobs yet" in call("status")[2]
    assert json.loads(call("status", "--json")[1]) == []
    first, second = submitted(call, "prompt\nx\n", "--name", "one\x1b[2J"), submitted(call)
    out, err = call("status")[1:]
    assert [line.split()[0] for line in out.splitlines()] == ["JOB", second, first]
    assert "\x1b" not in out
    assert "`endmark worker`" in err
    code, out, err = call("status", first[:6], "--json")
    assert code == 0
    assert err == ""
    values = json.loads(out)
    assert (values["id"], values["name"], values["state"], values["total"]) == (first, "one\x1b[2J", "queued", 1)
    assert (values["pending"], values["workers"], values["eta_seconds"]) == (1, [], None)
    assert "waiting for a worker" in call("status", "latest")[1]
    code, _, err = call("status", "ffffffffff")
    assert code == 1
    assert err.startswith("error: no job `ffffffffff`")


def test_nothing_is_stored_if_a_row_is_bad(call, store):
    text = "id,prompt\n" + "".join(f"{row},{'ok' if row % 2 else ''}\n" for row in range(100))
    code, out, err = call("submit", dataset(text))
    assert (code, out) == (2, "")
    assert "error: data.csv:2: column `prompt` is empty\ndata.csv:4:" in err
    assert "… and 30 more" in err
    assert call("status", "--json")[1] == "[]\n"
    with store.reader.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rows").scalar() == 0


def stored_rows(store):
    with store.reader.connect() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM rows").scalar()


def test_a_dataset_refused_after_rows_were_stored_leaves_none_of_them(call, store, monkeypatch):
    """Its first 2,000 rows and more are stored before the bad one is read."""
    seen = []
    real = submission.add_rows
    monkeypatch.setattr(submission, "add_rows", lambda *args: (real(*args), seen.append(stored_rows(store))))
    code, out, err = call("submit", dataset("prompt,x\n" + "ok,1\n" * 5000 + ",1\n"))
    assert (code, out) == (2, "")
    assert "data.csv:5002: column `prompt` is empty" in err
    assert max(seen) >= 2000
    assert stored_rows(store) == 0
    with store.reader.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar() == 0


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_batch_that_cannot_be_stored_fails_the_submission(call, store, monkeypatch, failing):
    """The last batch's error is seen by nobody but the one who waits for it: a job with rows missing would run."""
    real, calls = submission.add_rows, []

    def add_rows(*args):
        calls.append(args)
        if len(calls) == failing:
            raise StoreError("the disk is full", hint="make room")
        real(*args)

    monkeypatch.setattr(submission, "add_rows", add_rows)
    code, out, err = call("submit", dataset("prompt,x\n" + "ok,1\n" * 5000))
    assert (code, out) == (1, "")
    assert "error: the disk is full" in err
    assert len(calls) >= failing
    assert stored_rows(store) == 0
    with store.reader.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar() == 0


def test_nothing_is_stored_on_ctrl_c(store):
    def stored():
        return stored_rows(store)

    process = subprocess.Popen([ENDMARK, "submit", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("prompt,x\n" + "a prompt,1\n" * 5000)
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not stored():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 130
    assert stored() == 0


def test_bad_rows_are_left_out_on_request(call, store):
    Path("data.csv").write_bytes(b"custom_id,prompt\n1,ok\n2,\n3,\xff\n1,again\n4,fine\n")
    code, out, err = call("submit", "data.csv", "--skip-bad-rows")
    assert code == 0
    assert load_job(store, out.strip()).total == 2
    assert "3 bad rows left out, with reasons in `data.csv.rejected.csv`" in err
    with Path("data.csv.rejected.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["line", "reason", "content"],
        ["3", "column `prompt` is empty", "2,"],
        ["4", "is not UTF-8: byte 0xff at column 3", "3,\udcff"],
        ["5", "column `custom_id`: `1` stands in an earlier row", "1,again"],
    ]


def test_what_is_noted_about_rows_is_told_once_they_are_stored(call):
    code, out, err = call("submit", dataset("id,prompt,seed\n7,a,1\n7,What is </s>?,2\n"))
    assert code == 0
    assert len(out.split()) == 1
    assert "options of rows are set by columns: `seed` 1 to 2" in err
    assert "column `id` has values that stand in an earlier row (1 row, first in line 3)" in err
    assert "`--allow-control-tokens` changes that (1 row, first in line 3)" in err


def test_a_dataset_without_bad_rows_leaves_no_rejects(call):
    submitted(call, "prompt\nx\n", "--skip-bad-rows")
    assert list(Path().glob("*rejected*")) == []


def test_standard_input(home):
    done = subprocess.run(
        [ENDMARK, "submit", "-", "--template", "Say {word}"],
        input='{"word": "a"}\n{"word": "ä"}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    with open_store(Settings.load().database_url) as store:
        assert load_job(store, done.stdout.strip()).columns == ("word",)


def test_a_message_for_each_worker_goes_to_a_broker_that_runs(call, store):
    """There was one for each shard, and again one at each `resume`."""
    with ensure_broker(Settings.load()) as broker:
        job = submitted(call, "prompt\n" + "x\n" * 40)
        assert waiting_messages(broker.url, "demo", None) == 1
        for number in range(3):
            report_worker(store, WorkerReport(f"host:{number}", "cpu", "demo", None, "packed", 0.0))
        assert call("pause", job)[0] == 0
        assert call("resume", job)[0] == 0
        assert waiting_messages(broker.url, "demo", None) == 3


def test_status_works_with_the_broker_down(call, monkeypatch):
    job = submitted(call)
    monkeypatch.setenv("ENDMARK_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    code, out, err = call("status", job)
    assert code == 0
    assert job in out
    assert "the broker does not answer" in err
    assert "secret" not in err
    assert call("submit", "data.csv")[0] == 0


def test_status_puts_expired_leases_back(call, store):
    job = submitted(call)
    assert claim(store, worker="gone:1", model="demo", adapter=None, lease_seconds=-1.0) is not None
    assert json.loads(call("status", job, "--json")[1])["running"] == 0


def test_status_shows_what_is_there_though_nothing_can_be_written(call, store):
    job = submitted(call)
    assert claim(store, worker="gone:1", model="demo", adapter=None, lease_seconds=-1.0) is not None
    for words in (["status"], ["status", job]):
        done = subprocess.run(
            [ENDMARK, *words],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)),  # no file takes another byte
        )
        assert done.returncode == 0, done.stderr
        assert job in done.stdout
        assert "cannot put back what dead workers held: the database `sqlite:///" in done.stderr
        assert "hint: " in done.stderr


def test_pause_resume_and_cancel(call, store):
    job = submitted(call)
    code, _, err = call("pause", job)
    assert code == 0
    assert f"`endmark resume {job}`" in err
    assert load_job(store, job).state is JobState.PAUSED
    code, _, err = call("resume", job)
    assert code == 0
    assert "`endmark worker`" in err
    assert load_job(store, job).state is JobState.QUEUED
    code, _, err = call("cancel", job)
    assert code == 0
    assert "0 of 2 rows have a result" in err
    assert load_job(store, job).state is JobState.CANCELLED
    code, _, err = call("resume", job)
    assert code == 1
    assert "cancelled" in err


def test_watch_ends_with_the_job(call):
    job = submitted(call)
    call("cancel", job)
    code, out, _ = call("status", job, "--watch")
    assert code == 0
    assert "cancelled" in out


def test_export_to_files_and_to_standard_output(call):
    job = submitted(call, 'id,prompt\n1,"a ""b"", é\nc"\n')
    code, out, err = call("export", job, "-o", "out.csv")
    assert (code, out) == (0, "")
    assert "1 row of job" in err
    assert "1 row without a result yet" in err
    written = Path("out.csv").read_bytes()
    assert written.startswith(b"row,id,prompt,sample,response,finish_reason,")
    assert '\r\n0,1,"a ""b"", é\nc",,'.encode() in written
    assert call("export", job, "-o", "-")[1].encode() == written
    assert call("export", job, "-o", "out.jsonl")[0] == 0
    assert json.loads(Path("out.jsonl").read_text())["prompt"] == 'a "b", é\nc'
    assert call("export", job, "-o", "none.csv", "--only", "truncated")[0] == 0
    assert len(Path("none.csv").read_text().splitlines()) == 1
    code, _, err = call("export", job, "-o", "x", "--format", "xml")
    assert code == 2
    assert "unknown format `xml`" in err


def test_a_reader_that_has_had_enough_is_no_error(call):
    job = submitted(call, "prompt\n" + "x\n" * 20_000)
    shell = f"{ENDMARK} export {job} -o - | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("row,prompt")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_full_disk_is_said_with_the_fix(call):
    job = submitted(call)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([ENDMARK, "export", job, "-o", "-"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "cannot write standard output: No space left on device" in done.stderr
    assert "hint: make room" in done.stderr


def test_data_cannot_control_the_terminal(call):
    job = submitted(call, "prompt\nx\x1b]0;title\x07\n")
    reader, terminal = pty.openpty()
    done = subprocess.run([ENDMARK, "export", job, "-o", "-"], stdout=terminal, stderr=subprocess.PIPE, check=True)
    os.close(terminal)
    screen = os.read(reader, 10_000)
    os.close(reader)
    assert b"x\\x1b]0;title\\x07" in screen
    assert b"\x1b" not in screen + done.stderr


def test_watching_draws_a_screen_of_its_own_from_its_first_line(call):
    """What a worker in the background wrote to the same terminal had moved the table, which tore it."""
    job = submitted(call)
    reader, terminal = pty.openpty()
    watcher = subprocess.Popen([ENDMARK, "status", "--watch"], stdout=subprocess.PIPE, stderr=terminal, text=True)
    seen = b""
    while seen.count(job.encode()) < 2:
        seen += os.read(reader, 10_000)
        os.write(terminal, b"a worker's line\r\n")
    assert call("cancel", job)[0] == 0
    out, _ = watcher.communicate(timeout=60)
    os.close(terminal)
    while b"\x1b[?1049l" not in seen:
        seen += os.read(reader, 10_000)
    os.close(reader)
    screen = seen.partition(b"\x1b[?1049h")[2].partition(b"\x1b[?1049l")[0]
    frames = screen.split(b"\x1b[H")[1:]
    assert len([frame for frame in frames if job.encode() in frame]) >= 2
    assert all(b"JOB" in frame.lstrip()[:200] for frame in frames if job.encode() in frame)
    assert f"{job}  data.csv  cancelled" in out


def test_db_upgrade_makes_the_tables(call, monkeypatch, tmp_path):
    monkeypatch.setenv("ENDMARK_DATABASE_URL", f"sqlite:///{tmp_path}/other.db")
    code, out, err = call("db", "upgrade")
    assert (code, out) == (0, "")
    assert "is up to date" in err
    assert call("status", "--json")[1] == "[]\n"


def test_a_database_that_is_not_there_names_the_setting(call, monkeypatch):
    monkeypatch.setenv("ENDMARK_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    code, _, err = call("status")
    assert code == 1
    assert "ENDMARK_DATABASE_URL" in err
    assert "secret" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt-column", "question"], "error: data.csv: no column `question`; there are `id`, `prompt`"),
        (["--template", "Say {word}"], "error: data.csv: "),
    ],
)
def test_a_column_that_is_not_there_is_told_with_the_file(call, words, message):
    code, _, err = call("submit", dataset("id,prompt\n1,x\n"), *words)
    assert code == 2
    assert message in err


def test_a_file_without_a_header_says_what_it_takes_for_one(call):
    code, _, err = call("submit", dataset("What can I do in Paris?\nTell me about Rome.\n"))
    assert code == 0
    assert "prompts are read from the only column, `What can I do in Paris?`" in err
    assert "only column" not in call("submit", dataset("prompt\nTell me about Rome.\n"))[2]


def test_a_table_of_many_jobs_has_those_that_go_on_and_the_newest(call, store):
    """After a year of nights `endmark status` printed thousands of lines."""
    waiting = service_submit(store, ["a"], name="waits")
    for number in range(21):
        cancel_job(store, service_submit(store, ["a"], name=f"night-{number}"))
    code, out, err = call("status")
    assert code == 0
    assert len(out.splitlines()) == 21
    assert out.splitlines()[-1].startswith(waiting)
    assert "night-1 " not in out
    assert "20 of 22 jobs; `endmark status --all` shows all of them" in err
    code, out, err = call("status", "--all")
    assert (code, len(out.splitlines()), "jobs; " in err) == (0, 23, False)
    assert len(json.loads(call("status", "--json")[1])) == 22
