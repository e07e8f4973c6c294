"""Make docs/report.png: a comparison on the bundled model, its page opened in a headless Chromium.

`python docs/screenshot.py` runs `endmark compare` in a home of its own and takes the picture.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STRATEGIES = ("baseline", "whole", "eos-reward")


def main() -> None:
    """Run the comparison and take the picture."""
    sys.path.insert(0, str(ROOT))
    from tests.browser import browser

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        command = [Path(sys.executable).with_name("endmark"), "compare", "examples/prompts.csv"]
        options = [word for name in STRATEGIES for word in ("--strategy", name)]
        subprocess.run(
            [*command, *options, "--max-new-tokens", "120", "-o", page],
            cwd=ROOT,
            env={**os.environ, "ENDMARK_HOME": folder},
            check=True,
        )
        with browser() as chromium:
            view = chromium.new_page(viewport={"width": 1280, "height": 1000})
            view.goto(page.as_uri())
            view.screenshot(path=ROOT / "docs" / "report.png", full_page=True)


if __name__ == "__main__":
    main()
