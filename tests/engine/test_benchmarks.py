"""What benchmarks and examples import of Endmark is there: most of them run on machines that CI has not."""

import ast
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux alone"),
]
ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").rglob("*.py")])


def _is_module(package, name):
    return find_spec(f"{package}.{name}") is not None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_all_names_that_are_imported_exist(file):
    """benchmarks/accuracy.py named a class that had been renamed; nobody noticed before it was run on a card."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("endmark"):
            module = importlib.import_module(node.module)
            names = [name.name for name in node.names]
            missing = [name for name in names if not hasattr(module, name) and not _is_module(node.module, name)]
            assert not missing, f"{node.module} has no {missing}"
