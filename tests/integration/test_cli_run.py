"""`endmark run` with real brokers and workers: how it ends, and what it leaves behind."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.integration.service_fixtures import jobs_until
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def start(tmp_path):
    """Start the command in a home of its own; every process of that home is gone in the end."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    started = []

    def popen(*words):
        process = subprocess.Popen(
            [ENDMARK, *map(str, words)],
            env={**environment, "ENDMARK_HOME": str(tmp_path / "home")},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate()


def finished(process, code=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out, err


def processes_of(home):
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if str(home) in line]


def wait_until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def write_prompts(folder, count, **other):
    path = folder / "prompts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt"])
        writer.writerows([row, other.get(f"row_{row}", f"Question {row}?")] for row in range(count))
    return path


def statuses(start):
    return json.loads(finished(start("status", "--json"))[0])


def test_failed_rows_make_the_exit_code_3(start, tmp_path, model):
    """A prompt that is too long fails alone."""
    prompts = write_prompts(tmp_path, 5, row_2="x" * 2000)
    run = start("run", prompts, "-o", "out.csv", "--model", model, "--max-new-tokens", "8")
    out, err = finished(run, code=3)
    assert out == ""
    assert "failed          1 (20 %)" in err
    assert "--only failed" in err
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["finish_reason"] == "error" for row in rows] == [False, False, True, False, False]
    assert "tokens" in rows[2]["error"]
    assert processes_of(tmp_path / "home") == []


def test_each_row_of_a_table_is_kept_to_a_shape_of_its_own(start, tmp_path, model):
    """Of every kind, in Parquet; one whose value takes more than its budget fails alone, with what it takes."""
    mood = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}
    shapes = {
        "json_schema": json.dumps(mood),
        "regex": "[ab]{3}",
        "choices": "yes,no",
        "grammar": 'start: "<" /[0-9]{2}/ ">"',
    }
    rows = [{"prompt": "Hi", "max_new_tokens": 40, kind: text} for kind, text in shapes.items()]
    rows.append({**rows[0], "max_new_tokens": 14})
    names = ("prompt", "max_new_tokens", *shapes)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    words = ["run", "rows.parquet", "-o", "out.jsonl", "--model", model, "--parse"]
    finished(start(*words), code=3)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["valid"] for row in found] == [True, True, True, True, None]
    assert json.loads(found[0]["response"]) == {"mood": found[0]["mood"]}
    assert re.fullmatch("[ab]{3}", found[1]["response"])
    probs = found[2]["choice_probs"]
    assert (set(probs), found[2]["choice"]) == ({"yes", "no"}, max(probs, key=probs.get))
    assert re.fullmatch("<[0-9]{2}>", found[3]["response"])
    needed = len('{"mood":"bad"}') + 1
    assert f"takes {needed} tokens with its end token, and 14 are left" in found[4]["error"]


def test_a_model_that_cannot_be_loaded_is_said_at_once(start, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{}")
    began = time.monotonic()
    run = start("run", write_prompts(tmp_path, 3), "-o", "out.csv", "--model", "./damaged")
    _, err = finished(run, code=1)
    assert time.monotonic() - began < 60
    assert "error: the worker gave up: " in err
    assert str(tmp_path / "damaged") in err
    assert not (tmp_path / "out.csv").exists()
    assert processes_of(tmp_path / "home") == []
    (status,) = statuses(start)
    assert status["state"] == "paused"
    assert f"`endmark resume {status['id']}`" in err
    assert f"`endmark cancel {status['id']}` gives it up" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_pauses_the_job_which_can_be_finished_later(start, tmp_path, model, number):
    prompts = write_prompts(tmp_path, 600)
    run = start("run", prompts, "-o", "out.csv", "--model", model, "--max-new-tokens", "300")
    jobs_until(tmp_path / "home" / "endmark.db", lambda jobs: jobs[0].succeeded)
    run.send_signal(number)
    out, err = finished(run, code=130)
    assert out == ""
    assert processes_of(tmp_path / "home") == []
    (status,) = statuses(start)
    assert status["state"] == "paused"
    assert 0 < status["succeeded"] < 600
    assert f"job {status['id']} is paused, {status['succeeded']} of 600 rows done" in err
    for command in (f"endmark resume {status['id']}", "endmark worker --model", f"endmark export {status['id']}"):
        assert command in err


def test_a_worker_that_runs_already_is_used_and_left(start, tmp_path, model):
    worker = start("worker", "--model", model, "--gpus", "cpu")
    prompts = write_prompts(tmp_path, 20)
    waiting = finished(start("submit", prompts, "--model", model))[0].strip()
    jobs_until(tmp_path / "home" / "endmark.db", lambda jobs: jobs[0].workers)
    run = start("run", prompts, "-o", "out.csv", "--model", model, "--max-new-tokens", "8")
    _, err = finished(run)
    assert "started a worker" not in err
    assert worker.poll() is None
    out, _ = finished(start("status", waiting, "--watch", "--json"))
    assert json.loads(out)["succeeded"] == 20
    worker.terminate()
    finished(worker)
    assert processes_of(tmp_path / "home") == []


def test_a_bad_dataset_starts_nothing(start, tmp_path):
    (tmp_path / "bad.csv").write_text("id,prompt\n1,\n")
    _, err = finished(start("run", "bad.csv", "-o", "out.csv"), code=2)
    assert "error: bad.csv:2: column `prompt` is empty" in err
    assert "started" not in err
    assert statuses(start) == []
    _, err = finished(start("run", "bad.csv", "-o", tmp_path), code=2)
    assert "is a folder" in err
