"""Try a sample of mutants against the tests of their part: `python -m tests.mutation [PART …]`.

Cosmic Ray knows where a module can be changed, and how; the sample is drawn from all of its places. Each mutant
runs in a copy of the checkout against the tests of its part, those first that name its module. A timeout counts as
noticed. Mutants that change nothing are listed in `equivalent.txt`, each with the reason, and are left out. The
exit status is 1 below `--least`, and 2 where the tests fail without a change.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.mutants import PARTS, Mutant, all_mutants, explained, nearest, suite

ROOT = Path(__file__).parents[2]
_BASE = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout-method=thread"]


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
    survivors, outcomes = [], 0
    end = time.monotonic() + asked.minutes * 60
    with tempfile.TemporaryDirectory(prefix="endmark-mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.jobs):
            copies.put(_copy(Path(folder) / str(number)))
        for part in asked.parts:
            if failed := _failures(Path(folder) / "0", part):
                print(f"the tests of {part} fail without any change:\n{failed}", file=sys.stderr)
                return 2

        def attempt(mutant: Mutant) -> str | None:
            if time.monotonic() > end:
                return None
            copy = copies.get()
            try:
                return _try(copy, mutant, asked.seconds)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(asked.jobs) as pool:
            for mutant, outcome in zip(tried, pool.map(attempt, tried), strict=True):
                if outcome is None:
                    continue
                outcomes += 1
                print(f"{outcome}: {mutant.name}", flush=True)
                if outcome == "survived":
                    survivors.append(mutant)
    for mutant in survivors:
        print(f"\n{mutant.name}\n{mutant.diff(ROOT)}")
    share = (outcomes - len(survivors)) / outcomes if outcomes else 0.0
    print(f"\n{outcomes - len(survivors)} of {outcomes} mutants noticed: {share:.2f} (seed {asked.seed})")
    return int(share < asked.least)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--count", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="mutants at once")
    parser.add_argument("--seconds", type=float, default=600, help="for the tests of one mutant")
    parser.add_argument("--minutes", type=float, default=300, help="after which no mutant is begun")
    parser.add_argument("--least", type=float, default=0.9, help="share that must be noticed")
    return parser.parse_args()


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
    found = _python(folder, "-c", "import endmark.jobs; print(endmark.jobs.__file__)")
    assert found.startswith(str(folder)), f"the copy would run {found}"
    return folder


def _python(folder: Path, *words: str) -> str:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=_environment(), capture_output=True, text=True, check=True
    ).stdout


def _environment() -> dict[str, str]:
    """Return ours, without compiled modules: within a second a mutant and the next one look alike."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def _failures(copy: Path, part: str) -> str:
    """Return what fails of a part's tests before anything is changed; empty if nothing does."""
    run = subprocess.run(
        [*_BASE, *suite(copy, part)], cwd=copy, env=_environment(), capture_output=True, text=True, check=False
    )
    return run.stdout[-3000:] if run.returncode else ""


def _try(copy: Path, mutant: Mutant, seconds: float) -> str:
    """Run the tests near a mutant; return `noticed`, `timed out` or `survived`."""
    path = copy / mutant.module
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.apply(before), encoding="utf-8")
    try:
        run = subprocess.Popen(
            [*_BASE, *nearest(copy, mutant)],
            cwd=copy,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return "survived" if run.wait(seconds) == 0 else "noticed"
        except subprocess.TimeoutExpired:
            return "timed out"
        finally:
            _end(run)
    finally:
        path.write_text(before, encoding="utf-8")


def _end(run: subprocess.Popen[bytes]) -> None:
    """End what a run of tests has left."""
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


if __name__ == "__main__":
    sys.exit(main())
