"""Pages written by hand against what they speak of: the doctor's causes, the metrics, completion."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import endmark

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


WITH_CHANGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", WITH_CHANGES, ids=lambda page: page.name)
def test_every_option_of_a_benchmark_exists(page):
    text = " ".join(page.read_text(encoding="utf-8").split())
    for name, words in re.findall(r"benchmarks/(\w+)\.py((?: +[^\s`;]+)*)", text.replace("\\ ", "")):
        source = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        known = set(re.findall(r"\"(--[a-z][a-z-]*)\"", source))
        asked = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", words))
        assert asked <= known, f"benchmarks/{name}.py has no {sorted(asked - known)}"


@pytest.mark.parametrize("page", WITH_CHANGES, ids=lambda page: page.name)
def test_every_setting_and_make_target_exists(page):
    text = page.read_text(encoding="utf-8")
    files = [file for room in ("cli", "client", "db", "jobs", "worker") for file in (ROOT / room).rglob("*.py")]
    sources = [*files, ROOT / "docker-compose.yml", *(ROOT / "examples").rglob("*.*")]
    known = "\n".join(file.read_text("utf-8", errors="ignore") for file in sources if file.is_file())
    for name in set(re.findall(r"\bENDMARK_[A-Z_]+\b", text)):
        assert name in known, f"nothing reads {name}"
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for name in re.findall(r"`make ([a-z-]+)", text):
        assert name in targets, f"`make {name}`"


@pytest.mark.parametrize("page", WITH_CHANGES, ids=lambda page: page.name)
def test_python_in_the_pages_can_be_read_and_names_what_there_is(page):
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "endmark":
                assert node.attr in dir(endmark), f"there is no `endmark.{node.attr}`"


def test_importing_endmark_imports_nothing_else_of_ours():
    """As docs/python.md says. A line of `TYPE_CHECKING` had lost its indent, and the jobs' words came with it."""
    code = "import sys, endmark; print([name for name in sys.modules if name.startswith('endmark.')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_each_dependency_has_its_reason():
    """What only some need is an extra; what everybody installs stands in docs/design.md with what it is for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## What it is built on")[2]
    reasons, _, _ = told.partition("What is written by hand")
    for line in project["dependencies"]:
        assert re.search(rf"\b{Requirement(line).name}\b", reasons), line
    for extra in project["optional-dependencies"].keys() - {"docs", "dev"}:
        assert f"`{extra}`" in reasons, extra
