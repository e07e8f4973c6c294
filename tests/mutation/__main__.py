"""Try a sample of mutants against the tests of their part: `python -m tests.mutation [PART …]`.

Cosmic Ray knows where a module can be changed, and how; the sample is drawn from all of its places. Each mutant
runs in a copy of the checkout against the test files of its part that reach the place, those first that name
its module. A timeout counts as noticed. Mutants that change nothing are listed in `equivalent.txt`, each with the
reason, and are left out. What is known of earlier runs stands in `.mutants/`: the same command goes on where it
was stopped, and tries those again whose tests have changed. The exit status is 1 below `--least`, and 2 where the
tests fail without a change.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.mutants import PARTS, Mutant, all_mutants, explained
from tests.mutation.reach import Known, Reached, TestsFail, environment, measured, near, options

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Draw, try, tell; return the exit status."""
    asked = _arguments()
    drawn = random.Random(asked.seed).sample(
        mutants := all_mutants(ROOT, asked.parts), min(asked.count, len(mutants))
    )
    tried = [mutant for mutant in drawn if explained(ROOT, mutant) is None]
    print(
        f"{len(drawn)} of {len(mutants)} mutants drawn, {len(drawn) - len(tried)} of them change nothing",
        flush=True,
    )
    end = time.monotonic() + asked.minutes * 60
    with tempfile.TemporaryDirectory(prefix="endmark-mutants-") as folder:
        copies = [_copy(Path(folder) / str(number)) for number in range(asked.jobs)]
        try:
            reached = {part: measured(ROOT, copies[0], part, end) for part in asked.parts}
        except TestsFail as error:
            print(f"a test fails without any change: {error}", file=sys.stderr)
            return 2
        outcomes = _try_all(tried, reached, copies, asked.files, end)
    return _tell(tried, outcomes, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--count", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--files", type=int, help="test files for a mutant, the nearest; all that reach it")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="mutants at once")
    parser.add_argument("--minutes", type=float, default=300, help="after which no mutant is begun")
    parser.add_argument("--least", type=float, default=0.9, help="share that must be noticed")
    return parser.parse_args()


def _try_all(
    tried: Sequence[Mutant],
    reached: dict[str, list[Reached]],
    copies: Sequence[Path],
    files: int | None,
    end: float,
) -> dict[Mutant, str]:
    """Return the outcome of each mutant that was begun before the end: `noticed`, `timed out` or `survived`."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)
    known = Known(ROOT)

    def attempt(mutant: Mutant) -> tuple[str, str]:
        tests = near(ROOT, mutant, reached[mutant.part])[:files]
        if (outcome := known.outcome(mutant, tests)) is not None:
            return outcome, "as before"
        if time.monotonic() > end:
            return "", ""
        begin, copy = time.monotonic(), free.get()
        try:
            outcome, by = _try(copy, mutant, tests)
        finally:
            free.put(copy)
        known.note(mutant, tests, outcome)
        return outcome, f"{time.monotonic() - begin:.0f} s, {len(tests)} test files {by}"

    outcomes = {}
    with ThreadPoolExecutor(len(copies)) as pool:
        for number, (mutant, (outcome, told)) in enumerate(zip(tried, pool.map(attempt, tried), strict=True), 1):
            if outcome:
                outcomes[mutant] = outcome
                print(f"{number}/{len(tried)} {outcome}: {mutant.name} ({told})", flush=True)
    return outcomes


def _tell(tried: Sequence[Mutant], outcomes: dict[Mutant, str], asked: argparse.Namespace) -> int:
    """Show the survivors, and the shares of each module and of all; return the exit status."""
    survivors = [mutant for mutant, outcome in outcomes.items() if outcome == "survived"]
    for mutant in survivors:
        print(f"\n{mutant.name}\n{mutant.diff(ROOT)}")
    print()
    alive = Counter(mutant.module for mutant in survivors)
    for module, count in sorted(Counter(mutant.module for mutant in outcomes).items()):
        print(f"{count - alive[module]:4} of {count:3}  {module}")
    share = (len(outcomes) - len(survivors)) / len(outcomes) if outcomes else 0.0
    left = f", {len(tried) - len(outcomes)} not tried yet" if len(outcomes) < len(tried) else ""
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} noticed: {share:.2f} (seed {asked.seed}{left})")
    return int(share < asked.least)


def _copy(folder: Path) -> Path:
    """Return a copy of all files that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    found = subprocess.run(
        [sys.executable, "-c", "import endmark.jobs; print(endmark.jobs.__file__)"],
        cwd=folder, env=environment(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.startswith(str(folder)), f"the copy would run {found}"
    return folder


def _try(copy: Path, mutant: Mutant, tests: Sequence[Reached]) -> tuple[str, str]:
    """Run the tests near a mutant; return `noticed`, `timed out` or `survived`, and the test that failed."""
    if not tests:
        return "survived", ""
    path, longest = copy / mutant.module, max(item.seconds for item in tests)
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.apply(before), encoding="utf-8")
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", *(item.file for item in tests), *options(mutant.part, longest)],
            cwd=copy,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            told, _ = run.communicate(timeout=60 + 3 * sum(item.seconds for item in tests))
            failed = [line.split(" - ")[0] for line in told.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return "noticed" if run.returncode else "survived", " ".join(failed[:1])
        except subprocess.TimeoutExpired:
            return "timed out", ""
        finally:
            _end(run)
    finally:
        path.write_text(before, encoding="utf-8")


def _end(run: subprocess.Popen[str]) -> None:
    """End what a run of tests has left."""
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


if __name__ == "__main__":
    sys.exit(main())
