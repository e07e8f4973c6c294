"""Workers as those see them who start them: what they are told, and what they leave word of."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from endmark.jobs.engines import EngineChoice
from endmark.jobs.launch.lives import Life, LifeFile, Stage, read_life
from endmark.jobs.launch.workers import (
    Launch,
    WorkerOptions,
    WorkerProcess,
    worker_environment,
    write_deaths,
    write_failure,
    write_word,
)
from endmark.jobs.settings import Settings

pytestmark = pytest.mark.unit


@pytest.fixture
def worker(tmp_path):
    """A process that ends when its standard input is closed, as a worker does."""
    code = "import sys; print('ready', flush=True); sys.stdin.read(); sys.exit(7)"
    (tmp_path / "log").write_text("\n".join(map(str, range(30))) + "\n")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    found = WorkerProcess(process, tmp_path / "log", tmp_path / "worker.failure")
    yield found
    found.stop(0)
    process.stdout.close()


def test_nothing_is_told_before_there_is_word(worker):
    assert (worker.failure(), worker.deaths(), worker.words()) == (None, (0, ""), [])
    assert worker.alive
    assert worker.returncode is None


def test_each_word_is_read_as_it_was_left(worker):
    """A word of how a worker serves was read by a test over vLLM alone, which CI does not have."""
    write_failure(worker.report_path, "no room", None)
    assert worker.failure() == ("no room", None)
    write_failure(worker.report_path, "no room", "take less")
    write_deaths(worker.report_path, 3, "cpu: it was killed by SIGKILL")
    write_word(worker.report_path, "vLLM serves: a window of attention")
    assert worker.failure() == ("no room", "take less")
    assert worker.deaths() == (3, "cpu: it was killed by SIGKILL")
    write_word(worker.report_path, "vLLM serves: a window of attention")  # of another process of its
    write_word(worker.report_path, "in 16 bits:\nnothing else is there")
    assert worker.words() == ["vLLM serves: a window of attention", "in 16 bits: nothing else is there"]


def test_a_worker_that_is_stopped_leaves_its_code_and_no_word(worker):
    for write in (lambda path: write_failure(path, "x", None), lambda path: write_deaths(path, 1, "x")):
        write(worker.report_path)
    write_word(worker.report_path, "x")
    worker.process.stdin.close()
    assert worker.process.wait(30) == 7
    assert not worker.alive
    assert worker.returncode == 7
    assert worker.stop() == 7
    assert [item.name for item in worker.report_path.parent.iterdir()] == ["log"]


def test_the_end_of_a_log_is_its_last_lines(worker):
    assert worker.tail(2) == "28\n29\n"
    assert worker.tail() == "".join(f"{line}\n" for line in range(10, 30))


def test_what_a_process_is_told_comes_through_whole():
    """Each option with another value than its default: none is lost on the way, and paths are paths again."""
    odd = {"model": "m", "adapter": "a b", "gpus": "0,1", "weights": "fp8", "kv_cache": "fp8", "stall": 2.5}
    odd |= {"trust_remote_code": True, "grace": 1.5, "metrics_port": 9, "metrics_host": "::1", "lease": 3.0}
    options = WorkerOptions(**odd, engine=EngineChoice("vllm", 2, 3, 4, "ray"))
    default = WorkerOptions("")
    for item in fields(WorkerOptions):
        assert getattr(options, item.name) != getattr(default, item.name)
    launch = Launch(options, True, Path("/r"), Path("/l"), "cuda")
    assert Launch.from_json(launch.to_json()) == launch
    bare = Launch(default)
    assert Launch.from_json(bare.to_json()) == bare
    assert launch.command()[-1] == launch.to_json()


def test_a_worker_imports_nothing_from_the_folder_where_it_is_started(tmp_path):
    settings = replace(Settings.load({"ENDMARK_HOME": str(tmp_path)}))
    environment = worker_environment(settings)
    assert (environment["PYTHONSAFEPATH"], environment["PYTHONUNBUFFERED"]) == ("1", "1")
    assert environment["ENDMARK_HOME"] == str(tmp_path)


def test_how_far_a_process_is_goes_forward_and_its_first_reason_stays(tmp_path):
    path = tmp_path / "life.json"
    assert read_life(path) is None
    life = LifeFile(path)
    life.begin()
    assert read_life(path) == Life(Stage.LOADING)
    for stage in (Stage.IDLE, Stage.WORKING, Stage.PROVEN, Stage.WORKING, Stage.IDLE):  # no less is proven by them
        life.reach(stage)
    assert read_life(path) == Life(Stage.PROVEN)
    assert life.stage is Stage.PROVEN
    life.end("first", "a fix")
    life.end("second")
    assert read_life(path) == Life(Stage.PROVEN, "first", "a fix")
    assert [item.name for item in tmp_path.iterdir()] == ["life.json"]


def test_a_process_that_cannot_write_goes_on(tmp_path, caplog):
    life = LifeFile(tmp_path / "none" / "life.json")
    life.begin()
    assert "cannot tell the supervisor" in caplog.text
    caplog.clear()
    life.reach(Stage.IDLE)
    assert life.stage is Stage.IDLE
    assert "cannot tell the supervisor" in caplog.text
    LifeFile(None).reach(Stage.IDLE)
