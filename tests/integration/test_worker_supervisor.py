"""The supervisor with real child processes: pinned, restarted, given up, drained, and gone with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import astuple, fields, replace
from pathlib import Path

import pytest

from endmark.jobs.engines import EngineChoice
from endmark.jobs.errors import UsageError
from endmark.jobs.launch.gpus import choose_gpus, visible_gpus
from endmark.jobs.launch.lives import EXIT_CANNOT_START
from endmark.jobs.launch.workers import Launch, WorkerOptions
from endmark.worker.supervisor.children import ChildSpec, RestartPolicy, Supervisor, child_specs
from tests.integration.service_fixtures import gone, wait_until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
QUICKLY = RestartPolicy(first_wait=0.05, longest_wait=0.1, quick=60, most_quick=3)
STAY = """
import signal, sys, time
asked = []
def say(word):
    with open(sys.argv[2], "a") as log:
        log.write(word + ";")
def on_term(*_):
    asked.append(1)
    say(f"term {len(asked)}")
    if len(asked) >= int(sys.argv[1]):
        sys.exit(0)
signal.signal(signal.SIGTERM, on_term)
say("ready")
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
        self.thread = threading.Thread(target=self._run, daemon=True)  # a failed test leaves it behind
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
    launches = [Launch(WorkerOptions("m"), life=tmp_path / name) for name in "ab"]
    specs = child_specs(launches, os.environ, ["0", "GPU-abc"])
    command = [sys.executable, "-c", code, str(log)]
    assert Run(*(replace(spec, command=command) for spec in specs)).wait() == []
    assert sorted(log.read_text().split(";")) == ["", "0", "GPU-abc"]
    (cpu,) = child_specs(launches[:1], os.environ, None)
    assert cpu.environment["CUDA_VISIBLE_DEVICES"] == ""


def test_a_group_of_gpus_is_one_child_that_sees_them_all(tmp_path):
    launches = [Launch(WorkerOptions("m"), life=tmp_path / name) for name in "ab"]
    specs = child_specs(launches, os.environ, ["0,1", "2,3"])
    assert [spec.name for spec in specs] == ["gpus 0,1", "gpus 2,3"]
    assert [spec.environment["CUDA_VISIBLE_DEVICES"] for spec in specs] == ["0,1", "2,3"]


def test_what_a_dead_child_leaves_behind_is_killed(tmp_path):
    """An engine's own processes outlive the one that started them, and would keep the memory of their cards."""
    log = tmp_path / "log"
    code = """
import os, subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
with open(sys.argv[1], "a") as log:
    log.write(f"{left.pid};")
os.kill(os.getpid(), 9)
"""
    policy = replace(QUICKLY, most_quick=0)
    (failure,) = Run(child(code, log), policy=policy).wait()
    assert "SIGKILL" in failure
    number = int(log.read_text().strip(";"))
    wait_until(lambda: gone(number), 10)


def test_a_launch_crosses_to_another_process_as_one_line(tmp_path):
    """Each option stood in three places, and one that was forgotten was silently the default."""
    engine = EngineChoice("vllm", 2, 4, 3)
    options = WorkerOptions("my model", "/a b", "0,1", "packed", "fp8", True, 1.5, 2.5, 9100, "::1", 3.5, engine)
    assert all(value != field.default for value, field in zip(astuple(options), fields(options), strict=True))
    for launch in (Launch(options, True, tmp_path / "r", tmp_path / "l", "cuda"), Launch(WorkerOptions("m"))):
        line = launch.command("some.module")[-1]
        assert "\n" not in line
        assert Launch.from_json(line) == launch


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
    gone = threading.Event()
    good = tmp_path / "good"
    run = Run(
        child(code, name="bad"), child(STAY, 1, good, name="good"), died=lambda death: death.last and gone.set()
    )
    assert gone.wait(30)
    wait_for(good, "ready")
    assert run.thread.is_alive()
    run.supervisor.drain()
    assert run.wait() == ["bad: it cannot start"]


def test_drain_reaches_every_child_and_a_second_one_too(tmp_path):
    quick, slow = tmp_path / "quick", tmp_path / "slow"
    run = Run(child(STAY, 1, quick), child(STAY, 2, slow))
    for log in (quick, slow):
        wait_for(log, "ready")
    run.supervisor.drain()
    for log in (quick, slow):
        wait_for(log, "term 1")
    assert run.thread.is_alive()
    run.supervisor.drain()
    assert run.wait() == []
    assert slow.read_text() == "ready;term 1;term 2;"


def test_a_child_that_does_not_drain_is_killed_after_the_grace(tmp_path):
    log = tmp_path / "log"
    deaths = []
    run = Run(child(STAY, 99, log), grace=0.5, died=deaths.append)
    wait_for(log, "ready")
    run.supervisor.drain()
    assert run.wait(30) == []
    assert [death.how for death in deaths] == ["was killed by SIGKILL"]


def test_the_chore_is_done_again_and_again(tmp_path):
    enough = threading.Semaphore(0)
    log = tmp_path / "log"
    run = Run(child(STAY, 1, log), chore=enough.release, chore_interval=0.01)
    wait_for(log, "ready")
    for _ in range(3):
        assert enough.acquire(timeout=30)
    run.supervisor.stop_now()
    run.wait()


LIVE = """
import sys
from pathlib import Path
from endmark.jobs.launch.lives import LifeFile, Stage
life, log = LifeFile(Path(sys.argv[1])), Path(sys.argv[2])
turn = len(log.read_text()) if log.exists() else 0
log.write_text("x" * (turn + 1))
life.begin()
*stages, code = sys.argv[3].split(",")[min(turn, sys.argv[3].count(","))].split("+")
for stage in stages:
    life.reach(Stage(stage))
life.end("IndexError: out of bounds", "look at it")
sys.exit(int(code))
"""


def living(tmp_path, turns):
    """A child that comes as far in each of its lives as one of the turns says, such as `idle+working+71`."""
    tmp_path.mkdir(exist_ok=True)
    life = tmp_path / "life"
    spec = child(LIVE, life, tmp_path / "log", turns)
    return replace(spec, life=life, environment={**spec.environment, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    ("turns", "when"),
    [
        ("71", " while it loaded the model"),
        ("idle+working+71", " before it had finished a row"),
        ("idle+proven+71,idle+working+71", " before it had finished a row"),
    ],
)
def test_one_that_dies_before_its_first_finished_row_died_quickly(tmp_path, turns, when):
    """However long it lived: a model whose first step failed was started again every 90 seconds for ever."""
    deaths = []
    run = Run(living(tmp_path, turns), policy=replace(QUICKLY, quick=0.0), died=deaths.append)
    assert run.wait(60) == [
        f"child: it ended with code 71{when}, for the 4th time in a row: IndexError: out of bounds"
    ]
    assert run.supervisor.hint == "look at it"
    assert [death.last for death in deaths] == [False] * (len(deaths) - 1) + [True]
    assert deaths[-1].how == f"ended with code 71{when}: IndexError: out of bounds"


def test_one_that_finishes_rows_is_started_again_whatever_it_dies_of(tmp_path):
    """However short it lived: a row that kills its worker is the ledger's to find."""
    turns = ",".join(["idle+proven+71"] * 6 + ["idle+0"])
    assert Run(living(tmp_path, turns), policy=replace(QUICKLY, quick=3600.0)).wait(60) == []
    assert (tmp_path / "log").read_text() == "x" * 7


def test_one_that_waits_for_work_may_die_now_and_then(tmp_path):
    turns = ",".join(["idle+71"] * 6 + ["idle+0"])
    assert Run(living(tmp_path, turns), policy=replace(QUICKLY, quick=0.0)).wait(60) == []


def test_one_whose_model_has_run_before_tries_to_load_it_again(tmp_path):
    """The memory of the process before it may not be free yet; the model is one that loads."""
    deaths = []
    turns = f"idle+proven+71,{EXIT_CANNOT_START},idle+0"
    assert Run(living(tmp_path, turns), died=deaths.append).wait(60) == []
    assert len(deaths) == 2
    (failure,) = Run(living(tmp_path / "new", turns.partition(",")[2]), died=deaths.append).wait(60)
    assert failure == "child: IndexError: out of bounds"


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
    found = "from endmark.jobs.launch.gpus import visible_gpus; visible_gpus({})"
    code = f"import sys; {found}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,,1"}) == ["0"]
