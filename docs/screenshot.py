"""Make the pictures of the docs: a report, and five states of the live page, in a headless Chromium.

`python docs/screenshot.py` runs `endmark compare` on the bundled model in a home of its own, opens its page, and
then the same jobs in `endmark web`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
ENDMARK = Path(sys.executable).with_name("endmark")
STRATEGIES = ("baseline", "whole", "eos-reward")
PORT = "8766"
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
        submit = [ENDMARK, "submit", "examples/everyday.csv", "--strategy", "whole"]
        subprocess.run(submit, cwd=ROOT, env=environment, check=True)
        with browser() as chromium:
            view = chromium.new_page(viewport={"width": 1280, "height": 1000})
            view.goto(page.as_uri())
            view.screenshot(path=ROOT / "docs" / "report.png", full_page=True)
            live_page(chromium, environment)


def live_page(chromium: "Browser", environment: Mapping[str, str]) -> None:
    """Take five pictures of the live page."""
    listed = subprocess.run(
        [ENDMARK, "status", "--json"], env=environment, check=True, capture_output=True, text=True
    )
    jobs = {item["strategies"][0]: item["id"] for item in json.loads(listed.stdout) if item["succeeded"]}
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
