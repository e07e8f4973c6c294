"""The wheel installed by pip, uv and pipx, each into an environment and a home of its own, and used from there.

What Endmark needs is lent by the environment of the tests instead of being fetched again.
"""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent


@pytest.fixture
def call(tmp_path):
    """Run a command in a new home, without this session's variables; return the finished process."""
    kept = ("LANG", "LC_ALL", "PATH", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}

    def run(*words, **more):
        done = subprocess.run(
            words, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    return run


def by_pip(call, home, wheel, lent):
    """pip would take the checkout's package for this version, so it is told to install and to look no further."""
    call(sys.executable, "-m", "venv", home / "venv")
    pip = home / "venv" / "bin" / "pip"
    call(pip, "install", lent)
    call(pip, "install", "--no-deps", "--ignore-installed", wheel)
    return home / "venv" / "bin"


def by_uv(call, home, wheel, lent):
    """uv does not look through the lent path, so what the wheel needs is named as left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (home / "needed.txt").write_text("".join(f"{Requirement(line).name}\n" for line in project["dependencies"]))
    words = ["--excludes", home / "needed.txt", "--with", lent, "--python", sys.executable]
    call(TOOLS / "uv", "tool", "install", *words, wheel)
    return home / ".local" / "bin"


def by_pipx(call, home, wheel, lent):
    """With pip beneath, which finds what the wheel needs among the lent packages: it may fetch nothing."""
    call(TOOLS / "pipx", "install", "--skip-maintenance", "--backend", "pip", "--preinstall", lent, wheel)
    return home / ".local" / "bin"


@pytest.mark.parametrize("install", [by_pip, by_uv, by_pipx])
def test_the_installed_wheel_answers(install, call, tmp_path, wheel, lent):
    endmark = install(call, tmp_path, wheel, lent) / "endmark"
    where = subprocess.run(
        [endmark.resolve().parent / "python", "-c", "import endmark; print(endmark.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(tmp_path), "the checkout's own package was used"
    assert call(endmark, "--version").stdout.split()[-1] == version("endmark")
    assert "submit" in call(endmark, "--help").stdout
    asked = call(endmark, "ask", "What can I do in Paris?", "--strategy", "whole")
    assert "Paris" in asked.stdout
    assert "complete: eos" in asked.stderr
