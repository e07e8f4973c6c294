"""The tutorial's commands, as they are typed in a clone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def commands():
    """The blocks of commands and the whole commands within the text, in the order of the page."""
    for block, inline in re.findall(
        r"^```\n(endmark .*?)^```|`(endmark [^`]*-o [^`]*|endmark retry [^`]*)`", TUTORIAL, re.S | re.M
    ):
        yield block or inline.replace("\n", " ")


def test_every_command_of_the_tutorial_works_as_typed(tmp_path):
    """`endmark submit prompts.csv` named a file that no clone has."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENDMARK_")}
    environment["ENDMARK_HOME"] = str(tmp_path / "home")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    found = list(commands())
    assert len(found) >= 6
    for words in found:
        script = f"set -e\n{words}\njobs -p | xargs --no-run-if-empty kill; wait"
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{words}\n{done.stderr}"
    for name in ("results.csv", "cut.csv", "report.html", "out.jsonl"):
        assert (tmp_path / name).stat().st_size
