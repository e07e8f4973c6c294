"""Make the pictures of the docs: a report, and five states of the live page, in a headless Chromium.

`python docs/screenshot.py` runs `endmark compare` on the bundled model in a home of its own, opens its page, and
then the same jobs in `endmark web`, beside one that a worker runs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
ENDMARK = Path(sys.executable).with_name("endmark")
STRATEGIES = ("baseline", "whole", "eos-reward")
PORT = "8766"
RUNNING = "everyday.csv, overnight"  # the name of a job
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 780}


def main() -> None:
    """Run the comparison and take the pictures."""
    sys.path.insert(0, str(ROOT))
    from tests.browser import browser

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ENDMARK_HOME": folder}
        page = Path(folder) / "report.html"
        options = [word for name in STRATEGIES for word in ("--strategy", name)]
        compare = [ENDMARK, "compare", "examples/prompts.csv", *options, "--max-new-tokens", "120", "-o", page]
        subprocess.run(compare, cwd=ROOT, env=environment, check=True)
        submit = [ENDMARK, "submit", "examples/everyday.csv", "--strategy", "whole", "--name", RUNNING]
        subprocess.run(submit, cwd=ROOT, env=environment, check=True)
        with browser() as chromium:
            with working(environment):
                live_page(chromium, environment)
            view = chromium.new_page(viewport={"width": 1280, "height": 1000})
            view.goto(page.as_uri())
            view.screenshot(path=ROOT / "docs" / "report.png", full_page=True)


def listed(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return how far all jobs are."""
    words = [ENDMARK, "status", "--json"]
    found = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return list(json.loads(found.stdout))


@contextmanager
def working(environment: Mapping[str, str]) -> Iterator[None]:
    """Have a worker run a third of the job before what is done here."""
    worker = subprocess.Popen([ENDMARK, "worker"], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not any(
            item["succeeded"] * 3 > item["total"] for item in listed(environment) if item["name"] == RUNNING
        ):
            time.sleep(0.2)
        yield
    finally:
        worker.terminate()
        worker.wait()


def live_page(chromium: "Browser", environment: Mapping[str, str]) -> None:
    """Take five pictures of the live page."""
    jobs = {item["strategies"][0]: item["id"] for item in listed(environment) if item["name"] != RUNNING}
    process = subprocess.Popen(
        [ENDMARK, "web", "--port", PORT], env=environment, stderr=subprocess.PIPE, text=True
    )
    PICTURES.mkdir(exist_ok=True)
    try:
        assert process.stderr is not None
        process.stderr.readline()  # it listens
        for name, path, size, scheme in (
            ("jobs", "/", WIDE, "light"),
            ("job", f"/jobs/{jobs['baseline']}", WIDE, "light"),
            ("row", f"/jobs/{jobs['baseline']}/rows/3", WIDE, "dark"),
            ("phone", f"/jobs/{jobs['whole']}", NARROW, "dark"),
            ("new", "/jobs/new", NARROW, "light"),
        ):
            with chromium.new_context(viewport=size, color_scheme=scheme) as context:
                view = context.new_page()
                view.goto(f"http://127.0.0.1:{PORT}{path}")
                view.screenshot(path=PICTURES / f"{name}.png")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
