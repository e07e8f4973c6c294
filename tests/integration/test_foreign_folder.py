"""Every start of an interpreter, from a folder whose files are called like our modules and those we import.

`endmark doctor` had imported `json.py` from the folder in which it was called: whoever could put a file there ran
code as whoever looked at a model. No command may, nor a process that it starts, from the checkout or a wheel.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.integration.ports import free_port
from tests.integration.test_cli_run import wait_until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
OURS = ("cli", "db", "jobs", "worker")
TRAPS = (
    *(f"{name}/__init__.py" for name in (*OURS, "endmark")),
    *(
        "jobs.py",
        "json.py",
        "torch.py",
        "re.py",
        "redis.py",
        "celeryconfig.py",
        "transformers.py",
        "sitecustomize.py",
    ),
)


@pytest.fixture
def folder(tmp_path):
    """A folder in which every module leaves a line in `sprung` when it is imported."""
    here = tmp_path / "here"
    for name in TRAPS:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(f"open({str(tmp_path / 'sprung')!r}, 'a').write(__file__ + '\\n')\n")
    (here / "prompts.csv").write_text("prompt\nWhat can I do in Paris?\n")
    chats = [
        [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": "Hello."}] for n in range(6)
    ]
    (here / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return here


@pytest.fixture
def call(folder, tmp_path):
    """Run a command there; return it when it has ended as it should."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ENDMARK_", "PYTHON"))
    }
    environment |= {"ENDMARK_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def run(endmark, *words, code=0, **more):
        done = subprocess.run(
            [endmark, *words], cwd=folder, env={**environment, **more}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    run.environment = environment
    yield run
    sprung = tmp_path / "sprung"
    assert not sprung.exists(), f"imported from the current folder: {sprung.read_text()}"


@pytest.fixture(params=["checkout", "wheel"])
def endmark(request):
    """The command as it is installed from the checkout, and from the wheel."""
    if request.param == "wheel":
        return request.getfixturevalue("installed")
    return Path(sys.executable).with_name("endmark")


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    """`cli`, `db`, `jobs` and `worker` at the top of site-packages had hidden packages of these names."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"endmark"}
    for room in OURS:
        sources = {
            f"endmark/{path.relative_to(ROOT)}"
            for path in (ROOT / room).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
        }
        assert sources - set(names) == set()


def test_commands_import_nothing_from_the_current_folder(endmark, call, folder):
    job = call(endmark, "submit", "prompts.csv").strip()
    assert job in call(endmark, "status")
    call(endmark, "export", job, "-o", "out.csv")
    call(endmark, "report", job, "-o", "out.html")
    call(endmark, "retry", job, "--failed", code=1)
    call(endmark, "db", "upgrade")
    call(endmark, "cancel", job)


def test_workers_and_their_children_import_nothing_from_it(endmark, call, folder):
    call(endmark, "run", "prompts.csv", "-o", "out.csv", "--max-new-tokens", "3")
    assert len((folder / "out.csv").read_text().splitlines()) == 2


def test_the_doctor_imports_nothing_from_it(endmark, call):
    assert "demo" in call(endmark, "doctor", "demo", "--rows", "1", "--max-new-tokens", "3", "--json")


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_service_imports_nothing_from_it(call, folder):
    port = free_port()
    endmark = Path(sys.executable).with_name("endmark")
    service = subprocess.Popen(
        [endmark, "serve", "--port", str(port)], cwd=folder, env=call.environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: service.poll() is not None or answers(port))
        assert service.poll() is None
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(60)


@pytest.mark.slow
def test_trainings_and_comparisons_import_nothing_from_it(endmark, call, folder):
    call(endmark, "finetune", "chats.jsonl", "-o", "adapter", "--here", "--steps", "1", "--max-new-tokens", "4")
    call(endmark, "finetune", "chats.jsonl", "-o", "queued", "--steps", "1", "--max-new-tokens", "4")
    call(endmark, "compare", "prompts.csv", "-o", "page.html", "--max-new-tokens", "3")


def test_a_project_with_packages_of_our_rooms_names_is_no_hindrance(installed, call, tmp_path):
    """Both ways: it imports its own, and Endmark its own though the project comes first in the import path."""
    project = tmp_path / "project"
    for name in OURS:
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("mine = True\n")
    assert call(installed, "submit", "prompts.csv", PYTHONPATH=str(project))
    assert call(installed, "status", PYTHONPATH=str(project))
    python = installed.with_name("python")
    code = "import cli, db, jobs, worker, endmark.cli.main; print(cli.mine, db.mine, jobs.mine, worker.mine)"
    done = subprocess.run(
        [python, "-c", code], cwd=project, env=call.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True True True True\n"
