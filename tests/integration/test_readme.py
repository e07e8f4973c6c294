"""README.md word by word: its commands as they are typed, with the wheel's command, in a new and empty home."""

import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# The whole suite within itself, and a model from the Hub.
NOT_HERE = re.compile(r"make test|.* --model meta-llama")
# These take a minute or more each: `make nightly` runs them.
LONG = re.compile(r"\S*endmark (?:run|compare|estimate|doctor|finetune)")


def blocks(language=""):
    """The code blocks of this language, in the order of the page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [block for named, block in found if named == language]


def commands():
    """The lines that are typed into a shell, in the order of the page."""
    lines = [line for block in blocks() for line in block.splitlines()]
    return [line for line in lines if re.match(r"(?:\S*/)?(?:endmark|make) ", line)]


@pytest.fixture
def shell(tmp_path, installed):
    """Run a script in a clone, in a new home and without this session's variables; return the finished process."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("Makefile", "examples", "pyproject.toml", "constraints.txt"):
        (clone / name).symlink_to(ROOT / name)
    # What `make install` leaves: the command in .venv/, and the file by which make knows that it is done.
    (clone / ".venv").symlink_to(installed.parents[1])
    (clone / ".venv" / ".installed").touch()
    (tmp_path / "home").mkdir()
    environment = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    path = f"{installed.parent}{os.pathsep}{os.environ['PATH']}"
    environment |= {"HOME": str(tmp_path / "home"), "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(script):
        script = f"set -e\ntrap 'jobs -p | xargs --no-run-if-empty kill; wait' EXIT\n{script}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=clone, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done

    run.clone = clone
    return run


def test_few_commands_are_left_out():
    """So that neither a new way to write blocks nor a wider pattern empties the tests below."""
    assert len(commands()) >= 17
    assert len([line for line in commands() if NOT_HERE.match(line)]) <= 2


def test_the_commands_work_as_typed(shell):
    """`endmark submit prompts.csv` and `frame` named what no clone has, and `delete` a job that still ran."""
    short = [line for line in commands() if not NOT_HERE.match(line) and not LONG.match(line)]
    done = shell("\n".join(short))
    # `retry` had counted what no worker held yet, which beside a running one was none.
    assert re.search(r"^[1-9]\d* rows? of job \w+ are queued again", done.stderr, re.MULTILINE)
    (header,) = (block for block in blocks() if block.startswith("row,"))
    assert (shell.clone / "results.csv").read_text().startswith(header.rstrip("…\n"))
    (python,) = blocks("python")
    (shell.clone / "example.py").write_text(python)
    shell("python example.py")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in commands() if LONG.match(line) and not NOT_HERE.match(line)])
def test_the_long_commands_work_as_typed(line, shell):
    shell(line)
    for output in re.findall(r" -o (\S+)", line):
        assert (shell.clone / output).exists()
