"""Which test files reach which lines of a part: each is run under coverage.py once, and anew when code changes."""

import ast
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coverage import CoverageData

from tests.mutation.mutants import PARTS, Mutant, test_files

KEPT = ".mutants"  # what is known of earlier runs, in the checkout


@dataclass(frozen=True)
class Reached:
    """What one test file runs of a part, and how long it takes."""

    file: str
    seconds: float
    lines: dict[str, frozenset[int]]  # by module


class TestsFail(Exception):
    """The tests of a part fail where nothing is changed."""


def environment() -> dict[str, str]:
    """Return ours, without compiled modules: within a second a mutant and the next one look alike."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def options(part: str, seconds: float = 200) -> list[str]:
    """Return pytest's arguments for tests of a part, the longest file of which takes so many seconds."""
    quiet = ["-x", "-q", "-p", "no:cacheprovider", "--timeout-method=thread", f"--timeout={30 + 3 * seconds:.0f}"]
    return [*quiet, *PARTS[part].options, "-m", "not slow and not gpu"]


def measured(root: Path, copy: Path, part: str, end: float) -> list[Reached]:
    """Return what each test file of a part reaches; what did not change since it was measured is not run again.

    Args:
        root: the checkout, where measurements are kept.
        copy: of it, where the tests run.
        part: a name in `PARTS`.
        end: on the monotonic clock, when no further file is measured.

    Raises:
        TestsFail: with what pytest says.
    """
    folder = root / KEPT / "reach"
    folder.mkdir(parents=True, exist_ok=True)
    files = test_files(root, part)
    found = []
    for number, (file, text) in enumerate(files.items(), 1):
        kept = folder / _digest(item.encode() for item in (part, file, text))
        reached = _kept(root, part, file, kept)
        if reached is None and time.monotonic() > end:
            told = f"measured {number - 1} of {len(files)} test files of {part}"
            sys.exit(f"{told}: the same command goes on from here")
        if reached is None:
            print(f"\rmeasuring {part}: {number} of {len(files)} test files", end="", file=sys.stderr, flush=True)
            reached = _measure(copy, part, file)
            modules = {module: _digest([(root / module).read_bytes()]) for module in reached.lines}
            lines = {module: sorted(numbers) for module, numbers in reached.lines.items()}
            kept.write_text(json.dumps([reached.seconds, lines, modules]), encoding="utf-8")
        found.append(reached)
    print(file=sys.stderr)
    return found


def _kept(root: Path, part: str, file: str, kept: Path) -> Reached | None:
    """Return what a test file was measured to reach; None where it was not, or what it runs has changed."""
    if not kept.exists():
        return None
    seconds, lines, modules = json.loads(kept.read_text(encoding="utf-8"))
    mutated = [module for module in modules if not module.startswith(PARTS[part].without)]
    paths = {module: root / module for module in mutated}
    if any(not path.exists() or _digest([path.read_bytes()]) != modules[name] for name, path in paths.items()):
        return None
    return Reached(file, seconds, {name: frozenset(numbers) for name, numbers in lines.items()})


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:24]


def _measure(copy: Path, part: str, file: str) -> Reached:
    """Run a test file; return what it reaches of the part."""
    data = copy / ".coverage"
    data.unlink(missing_ok=True)
    base = [sys.executable, "-m", "coverage", "run", f"--data-file={data}"]
    begin = time.monotonic()
    run = subprocess.run(
        [*base, f"--include={copy / PARTS[part].folder}/*", "-m", "pytest", file, *options(part)],
        cwd=copy, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    if run.returncode not in (0, 5):  # 5: there are only tests that are left out
        raise TestsFail(f"{file}:\n{run.stdout[-3000:]}")
    ran = CoverageData(str(data))
    ran.read()
    lines = {str(Path(name).relative_to(copy)): frozenset(ran.lines(name) or ()) for name in ran.measured_files()}
    return Reached(file, seconds, lines)


def near(root: Path, mutant: Mutant, reached: list[Reached]) -> list[Reached]:
    """Return the test files that reach what a mutant changes, the nearest first.

    These name its module; then those that run most lines of its function, and of such the quickest.
    """
    lines = _uses(root, mutant.module)[mutant.line]
    found = [item for item in reached if not lines.isdisjoint(item.lines.get(mutant.module, ()))]
    dotted = "endmark." + mutant.module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    files, around = test_files(root, mutant.part), _function(root, mutant)

    def distance(item: Reached) -> tuple[bool, int, float]:
        return f"{dotted} " not in files[item.file], -len(around & item.lines[mutant.module]), item.seconds

    return sorted(found, key=distance)


def _function(root: Path, mutant: Mutant) -> frozenset[int]:
    """Return the lines of the innermost function around a mutant; none for one outside of functions."""
    tree = ast.parse((root / mutant.module).read_text(encoding="utf-8"))
    spans = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.lineno <= mutant.line <= (node.end_lineno or 0)
    ]
    return frozenset(min(spans, key=len, default=()))


@cache
def _uses(root: Path, module: str) -> dict[int, frozenset[int]]:
    """Return for each line of a module the lines of which one runs where the line matters.

    These are the lines of its own statement; of a function's head the body's, as the head runs with the import;
    of a constant of the module the lines that name it, if there are any in functions.
    """
    source = (root / module).read_text(encoding="utf-8")
    tree = ast.parse(source)
    inside: set[int] = set()  # of functions
    uses: dict[int, frozenset[int]] = {number: frozenset([number]) for number in range(1, source.count("\n") + 2)}

    def note(first: int, last: int, lines: Iterable[int]) -> None:
        uses.update(dict.fromkeys(range(first, last + 1), frozenset(lines)))

    for node in ast.walk(tree):  # outer ones first
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            note(node.lineno, last, range(node.lineno, last + 1))
            if isinstance(node, ast.FunctionDef):
                within = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
                note(node.lineno, last, within)
                inside.update(within)
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
            named = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in names]
            if own := frozenset().union(*(uses[line] for line in named if line in inside)):
                note(statement.lineno, statement.end_lineno or statement.lineno, own)
    return uses


class Known:
    """What became of mutants in earlier runs, by their text and that of the tests near them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / KEPT / "outcomes"
        self._folder.mkdir(parents=True, exist_ok=True)

    def outcome(self, mutant: Mutant, tests: list[Reached]) -> str | None:
        """Return how a mutant ended before these tests; None where that is not known."""
        path = self._path(mutant, tests)
        return path.read_text(encoding="utf-8") if path.exists() else None

    def note(self, mutant: Mutant, tests: list[Reached], outcome: str) -> None:
        """Keep how it ended."""
        self._path(mutant, tests).write_text(outcome, encoding="utf-8")

    def _path(self, mutant: Mutant, tests: list[Reached]) -> Path:
        source = mutant.apply((self._root / mutant.module).read_text(encoding="utf-8"))
        files = test_files(self._root, mutant.part)
        texts = [mutant.module, source, *(files[item.file] for item in sorted(tests, key=lambda item: item.file))]
        return self._folder / _digest(text.encode() for text in texts)
