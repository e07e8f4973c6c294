"""The supervisor with real child processes: pinned, restarted, given up, drained, and gone with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from endmark.jobs.errors import UsageError
from endmark.worker.supervisor.children import EXIT_CANNOT_START, ChildSpec, RestartPolicy, Supervisor, child_specs
from endmark.worker.supervisor.gpus import choose_gpus, visible_gpus

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
QUICKLY = RestartPolicy(first_wait=0.05, longest_wait=0.1, quick=60, most_quick=3)
STAY = """
import signal, sys, time
asked = []
def on_term(*_):
    asked.append(1)
    print("term", len(asked), flush=True)
    if len(asked) >= int(sys.argv[1]):
        sys.exit(0)
signal.signal(signal.SIGTERM, on_term)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def child(code, *arguments, name="child", **environment):
    return ChildSpec(name, [sys.executable, "-c", code, *map(str, arguments)], {**os.environ, **environment})


class Run:
    """A supervisor running in a thread."""

    def __init__(self, *specs, **options):
        self.supervisor = Supervisor(specs, **{"policy": QUICKLY, **options})
        self.failures = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        self.failures = self.supervisor.run()

    def wait(self, seconds=15):
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        return self.failures


def wait_for(path, text, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"no `{text}` in {path.read_text() if path.exists() else path}")


def test_each_child_sees_its_own_gpu_before_python_starts(tmp_path):
    code = "import os, sys; open(sys.argv[1], 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + ';')"
    log = tmp_path / "seen"
    command = [sys.executable, "-c", code, str(log)]
    assert Run(*child_specs(command, os.environ, ["0", "GPU-abc"])).wait() == []
    assert sorted(log.read_text().split(";")) == ["", "0", "GPU-abc"]
    (cpu,) = child_specs(command, os.environ, None)
    assert cpu.environment["CUDA_VISIBLE_DEVICES"] == ""


def test_a_child_that_dies_is_started_again(tmp_path):
    log = tmp_path / "log"
    code = "import os, sys; f = open(sys.argv[1], 'a'); f.write('x'); f.flush(); f.tell() < 3 and os.abort()"
    assert Run(child(code, log)).wait() == []
    assert log.read_text() == "xxx"


def test_one_that_keeps_dying_is_given_up_with_the_reason(caplog):
    (failure,) = Run(child("import os; os.kill(os.getpid(), 9)", name="gpu 3")).wait()
    assert failure == "gpu 3: it was killed by SIGKILL, for the 4th time in a row"
    assert caplog.text.count("starting it again") == 3


def test_one_that_dies_now_and_then_is_never_given_up(tmp_path):
    log = tmp_path / "log"
    code = "import os, sys; f = open(sys.argv[1], 'a'); f.write('x'); f.flush(); f.tell() < 8 and os.abort()"
    assert Run(child(code, log), policy=replace(QUICKLY, quick=0.0)).wait(60) == []
    assert log.read_text() == "x" * 8


def test_one_that_says_it_cannot_start_is_not_tried_again(tmp_path):
    log = tmp_path / "log"
    code = f"import sys; open(sys.argv[1], 'a').write('x'); sys.exit({EXIT_CANNOT_START})"
    (failure,) = Run(child(code, log)).wait()
    assert "cannot start" in failure
    assert log.read_text() == "x"


def test_a_child_given_up_leaves_the_others_running(tmp_path):
    code = f"import sys; sys.exit({EXIT_CANNOT_START})"
    run = Run(child(code, name="bad"), child(STAY, 1, name="good"))
    time.sleep(0.6)
    assert run.thread.is_alive()
    run.supervisor.drain()
    assert run.wait() == ["bad: it cannot start"]


def test_drain_reaches_every_child_and_a_second_one_too():
    run = Run(child(STAY, 1), child(STAY, 2))
    time.sleep(0.6)
    run.supervisor.drain()
    time.sleep(0.6)
    assert run.thread.is_alive()
    run.supervisor.drain()
    assert run.wait() == []


def test_a_child_that_does_not_drain_is_killed_after_the_grace():
    began = time.monotonic()
    run = Run(child(STAY, 99), grace=0.5)
    time.sleep(0.4)
    run.supervisor.drain()
    run.wait()
    assert time.monotonic() - began < 5


def test_the_chore_is_done_again_and_again():
    done = []
    run = Run(child(STAY, 1), chore=lambda: done.append(1), chore_interval=0.1)
    time.sleep(1.5)
    run.supervisor.stop_now()
    run.wait()
    assert len(done) >= 3


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(60)
"""
CHILD = """
import os, time
from endmark.worker.process.parent import when_parent_ends
when_parent_ends(lambda: (print("orphaned", flush=True), os._exit(0)))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_child_notices_that_its_parent_was_killed(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as out:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=out, cwd=ROOT)
    wait_for(log, "ready")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(log, "orphaned", 5)


@pytest.mark.parametrize(
    ("wanted", "visible", "chosen"),
    [
        ("cpu", "0,1", None),
        ("all", "", None),
        ("all", "-1", None),
        ("all", "2,5", ["2", "5"]),
        ("all", "GPU-a,MIG-b", ["GPU-a", "MIG-b"]),
        ("1", "2,5", ["5"]),
        ("1,0", "2,5", ["5", "2"]),
    ],
)
def test_gpus_are_chosen_among_the_visible(wanted, visible, chosen):
    assert choose_gpus(wanted, {"CUDA_VISIBLE_DEVICES": visible}) == chosen


@pytest.mark.parametrize("wanted", ["2", "x", "-1", "0,", "0,0"])
def test_a_gpu_that_is_not_there_is_refused(wanted):
    with pytest.raises(UsageError, match="--gpus"):
        choose_gpus(wanted, {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_gpus_are_counted_without_cuda():
    found = "from endmark.worker.supervisor.gpus import visible_gpus; visible_gpus({})"
    code = f"import sys; {found}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,,1"}) == ["0"]
