"""Runs that were interrupted: by whom, what is said at once, and how they go on."""

import csv
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from endmark.db.connection import open_store
from endmark.db.jobs import load_job, pause_job
from endmark.db.runs import find_run, forget_run, remember_run
from endmark.db.workers import list_workers
from endmark.jobs.launch.slots import Slot, take_slot
from tests.integration.service_fixtures import jobs_until, submit
from tests.integration.test_cli_run import (
    finished,
    model,
    processes_of,
    start,
    statuses,
    wait_until,
    write_prompts,
)

pytestmark = pytest.mark.integration
__all__ = ["model", "start"]


@pytest.fixture
def errors_of():
    """Follow what a process writes to standard error, line by line."""
    threads = []

    def follow(process):
        lines = []
        thread = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))
        thread.start()
        threads.append((process, thread))
        return lines

    yield follow
    for process, thread in threads:
        process.kill()
        thread.join()


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def begun(home):
    """Wait until a row of the newest job has a result; return its id."""
    return jobs_until(home / "endmark.db", lambda jobs: jobs[0].succeeded)[0].id


def test_the_same_run_goes_on_with_the_job_that_ctrl_c_has_paused(start, tmp_path, model, errors_of):
    """It had begun again with the first row, and the user was told four commands to avoid that."""
    prompts = write_prompts(tmp_path, 300)
    words = ("run", prompts, "-o", "out.csv", "--model", model, "--max-new-tokens", "150")
    first = start(*words)
    lines = errors_of(first)
    job = begun(tmp_path / "home")
    first.send_signal(signal.SIGINT)
    wait_until(lambda: any("stopping: rows that run have 30 s to end; Ctrl-C again" in line for line in lines))
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    wait_until(lambda: any("`endmark resume" in line for line in lines))
    assert processes_of(tmp_path / "home") == []
    (status,) = statuses(start)
    assert status["state"] == "paused"
    assert status["workers"] == []  # or the next run would wait for it to be forgotten
    _, err = finished(start(*words))
    assert f"going on with job {job} of the same dataset and options: {status['succeeded']} of 300 rows" in err
    assert "`--new` makes a new job" in err
    assert [int(row["row"]) for row in rows_of(tmp_path / "out.csv")] == list(range(300))
    (status,) = statuses(start)
    assert (status["id"], status["state"]) == (job, "completed")


def test_a_job_that_completes_while_it_is_stopped_is_written(start, tmp_path, model, errors_of):
    """Few tokens: on a busy machine 600 took longer than the 30 s that a drain gives them."""
    run = start("run", write_prompts(tmp_path, 3), "-o", "out.csv", "--model", model, "--max-new-tokens", "150")
    lines = errors_of(run)
    jobs_until(tmp_path / "home" / "endmark.db", lambda jobs: jobs[0].running == 3 or jobs[0].state.is_final)
    run.send_signal(signal.SIGINT)
    assert run.wait(90) == 0  # its rows end within the time that a drain gives them
    wait_until(lambda: any(line.startswith("results") for line in lines))
    assert len(rows_of(tmp_path / "out.csv")) == 3
    if any("stopping" in line for line in lines):
        assert any("has ended meanwhile" in line for line in lines)


def test_a_job_that_was_done_but_not_written_is_written_without_running(start, tmp_path, model):
    """A full disk, say: nothing has to run again."""
    prompts = write_prompts(tmp_path, 5)
    words = ("run", prompts, "-o", "out.csv", "--model", model, "--max-new-tokens", "4")
    done = start("run", prompts, "-o", "/dev/full", *words[4:])
    _, err = finished(done, code=2)
    (status,) = statuses(start)
    assert status["state"] == "completed"
    assert "error: cannot write `/dev/full`: No space left on device" in err
    assert f"`endmark export {status['id']} -o /dev/full` writes the results of the job, which is done" in err
    _, err = finished(start("run", prompts, "-o", "/dev/full", *words[4:]), code=2)
    assert f"going on with job {status['id']}" in err
    assert "started a worker" not in err
    assert len(statuses(start)) == 1
    finished(start(*words))  # another file: another run
    assert len(statuses(start)) == 2


def test_resume_and_retry_run_the_rows_themselves(start, tmp_path, model):
    prompts = write_prompts(tmp_path, 5)
    job = finished(start("submit", prompts, "--model", model, "--max-new-tokens", "4"))[0].strip()
    finished(start("pause", job))
    _, err = finished(start("resume", job, "--run", "-o", "out.csv"))
    assert "results         `out.csv`" in err
    assert len(rows_of(tmp_path / "out.csv")) == 5
    cut = sum(row["truncated"] == "true" for row in rows_of(tmp_path / "out.csv"))
    assert cut
    words = ("--truncated", "--max-new-tokens", "12", "--run", "-o", "more.jsonl")
    finished(start("retry", job, *words))
    answers = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert sum(answer["attempts"] == 2 for answer in answers) == cut
    assert processes_of(tmp_path / "home") == []


@pytest.mark.parametrize("command", [["resume", "latest"], ["retry", "latest", "--failed"]])
def test_run_and_its_file_go_together(start, tmp_path, command):
    _, err = finished(start(*command, "--run"), code=2)
    assert "where are the results to go?" in err
    _, err = finished(start(*command, "-o", "out.csv"), code=2)
    assert "nothing is written without `--run`" in err
    _, err = finished(start(*command, "--run", "-o", "out.xlsx"), code=2)
    assert "there is no format for `.xlsx`" in err


def test_two_runs_at_once_start_one_worker(start, tmp_path, model, errors_of):
    """Each had started its own, and the second did not fit on the GPU."""
    prompts = write_prompts(tmp_path, 40)
    runs = [
        start("run", prompts, "-o", f"{name}.csv", "--model", model, "--max-new-tokens", "40") for name in "ab"
    ]
    followed = [errors_of(run) for run in runs]
    assert [run.wait(120) for run in runs] == [0, 0]
    for lines in followed:
        wait_until(lambda lines=lines: any(line.startswith("results") for line in lines))
    said = "".join(line for lines in followed for line in lines)
    logs = list((tmp_path / "home" / "logs").glob("worker-*.log"))
    waited = said.count("waiting for the worker of another `endmark run`")
    assert said.count("started a worker") == len(logs) <= 1 + (waited > 0)
    assert [len(rows_of(tmp_path / f"{name}.csv")) for name in "ab"] == [40, 40]
    assert processes_of(tmp_path / "home") == []


def test_the_right_to_start_a_worker_is_one_processs(tmp_path):
    cpu = {"CUDA_VISIBLE_DEVICES": ""}
    first = take_slot(tmp_path, ("m", None), cpu)
    assert isinstance(first, Slot)
    assert take_slot(tmp_path, ("m", None), cpu) == ("m", None)
    other = take_slot(tmp_path, ("m", "adapter"), cpu)  # a CPU has room for two models
    assert isinstance(other, Slot)
    first.close()
    again = take_slot(tmp_path, ("m", None), cpu)
    assert isinstance(again, Slot)
    again.close()
    other.close()


def test_a_gpu_has_room_for_one_worker_whatever_its_model(tmp_path):
    gpu = {"CUDA_VISIBLE_DEVICES": "0"}
    first = take_slot(tmp_path, ("m", None), gpu)
    assert take_slot(tmp_path, ("another", None), gpu) == ("m", None)
    second = take_slot(tmp_path, ("another", None), {"CUDA_VISIBLE_DEVICES": "1"})
    assert isinstance(second, Slot)
    first.close()
    third = take_slot(tmp_path, ("another", "a"), gpu)
    assert take_slot(tmp_path, ("m", None), gpu) == ("another", "a")
    third.close()
    second.close()


def test_runs_are_remembered_until_they_are_written(store):
    job, other = submit(store, ["x"]), submit(store, ["x"])
    assert find_run(store, "k") is None
    remember_run(store, "k", job)
    remember_run(store, "other", job)
    assert find_run(store, "k") == job
    remember_run(store, "k", other)
    assert find_run(store, "k") == other
    pause_job(store, other)
    assert find_run(store, "k") == other
    forget_run(store, job)
    assert (find_run(store, "k"), find_run(store, "other")) == (other, None)
    forget_run(store, other)
    assert find_run(store, "k") is None


def test_a_worker_of_this_host_that_was_killed_is_not_waited_for(start, tmp_path, model):
    """Its last report counted for a minute, in which the next run started no worker."""
    worker = start("worker", "--model", model, "--gpus", "cpu")
    wait_until(lambda: (tmp_path / "home" / "endmark.db").exists())
    with open_store(f"sqlite:///{tmp_path / 'home' / 'endmark.db'}") as store:
        wait_until(lambda: list_workers(store))
        (child,) = [int(item.worker.rpartition(":")[2]) for item in list_workers(store)]
        os.kill(child, signal.SIGSTOP)  # or it would sign off, seeing that its supervisor has died
        worker.kill()
        worker.wait()
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: processes_of(tmp_path / "home") == [])
        assert list_workers(store)
        _, err = finished(
            start("run", write_prompts(tmp_path, 2), "-o", "o.csv", "--model", model, "--max-new-tokens", "2")
        )
        assert "started a worker" in err
        assert load_job(store, statuses(start)[0]["id"]).state.is_final
