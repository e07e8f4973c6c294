"""From the start of a worker to its first row: `python benchmarks/start.py --model FOLDER`.

A job of one row with one token waits in the ledger of a new home when `endmark worker` starts. What the worker
says is printed with the seconds since its start, among it what the parts of loading took; then when the row is
stored. The first time warms the files and compiles kernels, so the last one counts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import endmark
from endmark.jobs.settings import DEMO_MODEL

_WORKER = [sys.executable, "-c", "from endmark.cli.main import main; main()", "worker"]
_LONGEST = 300.0  # seconds
_DONE = " shard 0: done in "  # what a worker says once the rows are stored


def first_row(model: str, options: Sequence[str]) -> float:
    """Return the seconds from the start of a worker until it has stored its first row."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["ENDMARK_HOME"] = home
        job = endmark.submit(["Say one word."], model=model, max_new_tokens=1)
        started = time.monotonic()
        process = subprocess.Popen(
            [*_WORKER, "--model", model, *options], stderr=subprocess.PIPE, text=True, start_new_session=True
        )

        stored: list[float] = []

        def tell() -> None:
            for line in process.stderr or ():
                seconds = time.monotonic() - started
                print(f"  {seconds:6.2f} s  {line}", end="", flush=True)
                if _DONE in line:
                    stored.append(seconds)

        teller = threading.Thread(target=tell)
        teller.start()
        try:
            job.wait(_LONGEST)
        finally:
            process.terminate()
            process.wait()
            teller.join()
        return stored[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("worker", nargs="*", help="Options of `endmark worker`, behind `--`.")
    options = parser.parse_args()
    model = options.model if options.model == DEMO_MODEL else str(Path(options.model).absolute())
    for _ in range(options.times):
        print(f"first row stored after {first_row(model, options.worker):.1f} s", flush=True)


if __name__ == "__main__":
    main()
