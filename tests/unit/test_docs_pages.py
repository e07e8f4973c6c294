"""Pages written by hand against what they speak of: the doctor's causes, the metrics, completion."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]


def test_every_finding_of_the_doctor_has_its_section_and_no_other():
    trees = [ast.parse(file.read_text("utf-8")) for file in (ROOT / "worker" / "doctor" / "checks").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls = [node for node in nodes if ast.unparse(node.func) == "Finding"]
    causes = {call.args[0].value for call in calls}
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (.+)$", page, re.MULTILINE)) == causes


def test_every_metric_is_in_the_operations_guide_and_no_other():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named = {name.removesuffix("_total") for name in re.findall(r"\bendmark_[a-z_]+", page)}
    tree = ast.parse((ROOT / "worker" / "service" / "metrics.py").read_text(encoding="utf-8"))
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    declared = {text for text in texts if isinstance(text, str) and re.fullmatch(r"endmark_[a-z_]+", text)}
    assert named == declared - {"endmark_worker_info"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_and_strategies(shell):
    endmark = Path(sys.executable).with_name("endmark")

    def ask(words):
        environment = {**os.environ, "_ENDMARK_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split()) - 1) if shell != "fish" else words.split()[-1]
        return subprocess.run([endmark], env=environment, capture_output=True, text=True, check=True).stdout

    assert "worker" in ask("endmark wor")
    assert "--metrics-port" in ask("endmark worker --met")
    assert "soft-landing" in ask("endmark run x --strategy sof")
