"""Where modules can be changed, by which of Cosmic Ray's operators; which tests stand near a place."""

import ast
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

# Changes of the kind that people make by mistake. Those that fail wherever the module is imported are left out:
# they would be noticed by any test, and say nothing of ours.
_OPERATORS = [
    "AddNot",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "ZeroIterationForLoop",
    *(
        f"ReplaceComparisonOperator_{kind}"
        for kind in (
            "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is",
            "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "Gt_Lt",
        )
    ),
    *(
        f"ReplaceBinaryOperator_{kind}"
        for kind in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv")
    ),
]  # fmt: skip


# Keywords that only forbid what the code never does, or save memory: without them nothing is computed otherwise.
_GUARDS = {"frozen", "slots", "strict"}


@dataclass(frozen=True)
class Part:
    """A room: what is left out of it, and its tests."""

    folder: str
    without: tuple[str, ...]
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()
    words: tuple[str, ...] = ("",)  # only test files with one of them are of the part


PARTS = {
    "jobs": Part(
        "jobs", (), ("tests/unit", "tests/integration/test_broker.py", "tests/integration/test_queue.py")
    ),
    "db": Part(
        "db",
        ("db/migrations/",),  # never changed again once they are released
        (
            "tests/integration/store",
            "tests/integration/test_export_formats.py",
            "tests/integration/test_finetunings_ledger.py",
            "tests/integration/test_serve_takeover.py",
            "tests/unit",
        ),
        ("-k", "not postgres"),
    ),
    "engine": Part(
        "worker/engine",
        ("worker/engine/cuda/",),  # tests/engine/test_kernels_interpreted.py takes a minute for each
        ("tests/unit", "tests/engine"),
        ("--deselect", "tests/engine/test_kernels_interpreted.py"),
        ("endmark.worker.engine", "engine_contract"),
    ),
}


@dataclass(frozen=True)
class Mutant:
    """One change at one place."""

    part: str
    module: str
    operator: str
    occurrence: int
    line: int

    @property
    def name(self) -> str:
        """What tells it from all others while the module is as it is."""
        return f"{self.module}:{self.line} {self.operator} {self.occurrence}"

    def apply(self, source: str) -> str:
        """Return the module's text with the change."""
        changed = mutate_code(source, get_operator(f"core/{self.operator}")(), self.occurrence)
        assert changed is not None, f"no such place: {self.name}"
        return str(changed)

    def changed(self, root: Path) -> str:
        """Return the first line that it changes, as it is then, without its indent."""
        lines = self.diff(root).splitlines()
        return next((line[1:].strip() for line in lines if line.startswith("+")), "")

    def diff(self, root: Path) -> str:
        """Return the change as a diff."""
        source = (root / self.module).read_text(encoding="utf-8")
        lines = difflib.unified_diff(source.splitlines(), self.apply(source).splitlines(), n=0, lineterm="")
        return "\n".join(list(lines)[2:])


def all_mutants(root: Path, parts: Sequence[str]) -> list[Mutant]:
    """Return all mutants of some parts, in an order that does not change."""
    found = []
    for name in parts:
        part = PARTS[name]
        for path in sorted((root / part.folder).rglob("*.py")):
            module = str(path.relative_to(root))
            if not module.startswith(part.without):
                found += _of_module(name, module, path.read_text(encoding="utf-8"))
    return found


def _of_module(part: str, module: str, source: str) -> list[Mutant]:
    """Return a module's mutants."""
    tree = get_ast(source)
    nodes = list(ast_nodes(tree))
    mutants = []
    for operator in _OPERATORS:
        known = get_operator(f"core/{operator}")()
        places = [(node, start) for node in nodes for start, _ in known.mutation_positions(node)]
        mutants += [
            Mutant(part, module, operator, index, line)
            for index, (node, (line, _)) in enumerate(places)
            if not _says_nothing(node)
        ]
    return mutants


def _says_nothing(node: Any) -> bool:
    """Whether a node of parso's is the value of a keyword that is a guard, or a star that multiplies nothing."""
    around = node.parent
    if around is None:
        return False
    if node.type == "operator" and node.value in ("*", "**"):
        return around.type in ("parameters", "param", "argument")
    return around.type == "argument" and around.children[0].get_code().strip() in _GUARDS


@cache
def test_files(root: Path, name: str) -> dict[str, str]:
    """Return a part's test files with their text."""
    files: dict[str, str] = {}
    part = PARTS[name]
    for place in part.tests:
        found = sorted((root / place).rglob("test_*.py")) if (root / place).is_dir() else [root / place]
        texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in found}
        files |= {name: text for name, text in texts.items() if any(word in text for word in part.words)}
    return files


def explained(root: Path, mutant: Mutant) -> str | None:
    """Return why a mutant changes nothing that can be observed; None where nobody has said so.

    It is told by the line that it changes and not by its number, which any other change of the module would shift.
    """
    source = (root / mutant.module).read_text(encoding="utf-8")
    if ast.dump(ast.parse(source)) == ast.dump(ast.parse(mutant.apply(source))):
        return "the same program, as 1e30 and one is 1e30"
    return _reasons().get((mutant.module, mutant.changed(root))) if mutant.module in _reasoned() else None


@cache
def _reasons() -> dict[tuple[str, str], str]:
    """Return the reasons that are written down, by module and line."""
    text = (Path(__file__).parent / "equivalent.txt").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line and not line.startswith("#")]
    return {(module, " | ".join(line)): reason for module, *line, reason in rows}


@cache
def _reasoned() -> frozenset[str]:
    return frozenset(module for module, _ in _reasons())
