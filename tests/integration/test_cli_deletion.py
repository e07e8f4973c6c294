"""`endmark delete`, `prune`, sizes in `status`, and fine-tunings listed and cancelled, as called."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from endmark.cli.main import main
from endmark.db.connection import open_store
from endmark.db.finetunings import add_finetuning, claim_finetuning, finetuning_status, report_finetuning
from endmark.jobs.errors import LeaseLost
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec
from endmark.jobs.settings import Settings
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import answer_all, execute

pytestmark = pytest.mark.integration
ENDMARK = Path(sys.executable).with_name("endmark")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    for name in ("ENDMARK_DATABASE_URL", "ENDMARK_BROKER_URL", "ENDMARK_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store():
    with open_store(Settings.load().database_url) as store:
        yield store


@pytest.fixture
def call(capfd):
    """Run a command in this process; return its exit code, standard output and standard error."""

    def run(*words):
        code = main(list(words))
        return (code, *capfd.readouterr())

    return run


def jobs(call):
    return [item["id"] for item in json.loads(call("status", "--json")[1])]


def test_delete_names_what_goes_and_deletes_it(call, store):
    kept, job = submit(store, ["x"]), submit(store, ["prompt"] * 3)
    answer_all(store)
    code, out, err = call("delete", job[:5], job, "--yes")
    assert (code, out) == (0, "")
    assert f"{job}  test  completed, 3 rows, 48 bytes" in err
    assert "1 job deleted, 3 rows, 48 bytes" in err
    assert jobs(call) == [kept]


def test_delete_refuses_all_where_one_has_not_ended(call, store):
    ended = submit(store, ["x"])
    answer_all(store)
    queued = submit(store, ["x"])
    code, out, err = call("delete", ended, queued, "--yes")
    assert (code, out) == (1, "")
    assert f"error: job `{queued}` is queued" in err
    assert f"hint: `endmark cancel {queued}` ends it first" in err
    assert set(jobs(call)) == {ended, queued}


def test_delete_without_a_terminal_wants_to_be_told(call, store, monkeypatch):
    submit(store, ["x"])
    answer_all(store)
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        code, _, err = call("delete", "latest")
    assert code == 2
    assert "hint: `--yes` deletes without asking" in err
    assert len(jobs(call)) == 1


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 1), (b"\n", 1), (b"y\n", 0)])
def test_delete_asks_on_a_terminal(call, store, answer, left):
    job = submit(store, ["x"])
    answer_all(store)
    master, slave = pty.openpty()
    os.write(master, answer)
    done = subprocess.run(
        [ENDMARK, "delete", job], stdin=slave, capture_output=True, text=True, check=False, timeout=60
    )
    os.close(slave)
    os.close(master)
    assert "delete 1 job, 1 row, 11 bytes? [y/N]: " in done.stderr
    assert done.stdout == ""
    assert done.returncode == (1 if left else 0)
    assert ("nothing was deleted" in done.stderr) == bool(left)
    assert len(jobs(call)) == left


def test_prune_deletes_ended_jobs_by_age_and_says_first_what_would_go(call, store):
    old = submit(store, ["x"])
    answer_all(store)
    execute(store, "UPDATE jobs SET finished_at = finished_at - 40 * 86400")
    young = submit(store, ["x"])
    answer_all(store)
    waiting = submit(store, ["x"])
    code, out, err = call("prune", "--older-than", "30d", "--dry-run")
    assert (code, out) == (0, f"{old}\n")
    assert f"{old}  test  completed, 40 days ago, 1 row, 11 bytes" in err
    assert "1 job would be deleted, 1 row" in err
    assert len(jobs(call)) == 3
    code, out, err = call("prune", "--older-than", "30d", "--yes")
    assert (code, out) == (0, f"{old}\n")
    assert "1 job deleted, 1 row" in err
    assert set(jobs(call)) == {young, waiting}
    code, out, err = call("prune", "--older-than", "30d", "--yes")
    assert (code, out, err) == (0, "", "no job ended longer than 30d ago\n")


@pytest.mark.parametrize("age", ["30", "0d", "-1d", "1y", "d", "1.5d", "", "9999999d"])
def test_prune_refuses_what_is_no_age(call, age):
    code, _, err = call("prune", "--older-than", age)
    assert code == 2
    assert f"error: `{age}` is no age" in err
    assert "hint: give minutes, hours, days or weeks" in err


def test_status_of_one_job_tells_its_size(call, store):
    job = submit(store, ["x" * 200_000] * 2)
    answer_all(store, text="y" * 1000)
    assert "size            0.4 MB of prompts, 2.0 kB of answers\n" in call("status", job)[1]
    found = json.loads(call("status", job, "--json")[1])["size"]
    assert found["answer_bytes"] == 2000
    assert found["bytes"] == found["prompt_bytes"] + 2000
    assert "size" not in json.loads(call("status", "--json")[1])[0]


def test_finetunings_are_listed_and_cancelled(call, store):
    assert call("finetune", "--list") == (0, "", "no fine-tunings yet\n")
    spec = FinetuneSpec(dataset="/data.jsonl", output="/adapter", model="m")
    finetuning = add_finetuning(store, spec)
    lease = claim_finetuning(store, finetuning, model="m", worker="host:1")
    report_finetuning(store, lease, FinetuneProgress("training", 5, 250))
    code, out, _ = call("finetune", "--list")
    assert code == 0
    assert out.splitlines()[0].split() == "FINE-TUNING STATE STEP AGE MODEL DATASET OUTPUT WORKER".split()
    shown = [finetuning, "running", "5/250", "0", "minutes", "m", "/data.jsonl", "/adapter", "host:1"]
    assert out.splitlines()[1].split() == shown
    code, out, err = call("finetune", "--cancel", finetuning[:6])
    assert (code, out) == (0, "")
    assert f"fine-tuning {finetuning} is cancelled" in err
    assert finetuning_status(store, finetuning).state == "cancelled"
    with pytest.raises(LeaseLost):  # by which the worker that trains hears of it
        report_finetuning(store, lease, None)
    code, _, err = call("finetune", "--cancel", finetuning)
    assert code == 1
    assert "has ended already" in err
    code, _, err = call("finetune", "--cancel", "ffff")
    assert code == 1
    assert "error: no fine-tuning `ffff`" in err
    assert "hint: `endmark finetune --list` lists them" in err


def test_a_finetuning_of_a_newer_version_is_listed_too(call, store):
    add_finetuning(store, FinetuneSpec(dataset="/d", output="/o", model="m"))
    execute(store, """UPDATE finetunings SET spec = '{"version": 99}'""")
    code, out, _ = call("finetune", "--list")
    assert code == 0
    assert out.splitlines()[1].split()[-4:] == ["–"] * 4
