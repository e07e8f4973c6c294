"""The docs as a site: each link has a page and an anchor behind it, and nothing is loaded from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

_LOADED = re.compile(r'<(?:script|img|iframe)[^>]* src="https?:|<link rel="(?:stylesheet|icon)" href="https?:')
ROOT = Path(__file__).resolve().parents[2]


def build(target, config=ROOT / "mkdocs.yml"):
    """Build the site; return the finished process."""
    words = [sys.executable, "-m", "mkdocs", "build", "--config-file", config, "--site-dir", target]
    return subprocess.run(
        words, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120
    )


def test_every_page_is_built_and_every_link_leads_somewhere(tmp_path):
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    for page in (ROOT / "docs").glob("*.md"):
        name = "" if page.stem == "index" else page.stem
        made = (tmp_path / name / "index.html").read_text(encoding="utf-8")
        loaded = _LOADED.findall(made)
        assert loaded == [], page


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[gone](../cli/gone.py) [away](away.md)")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:\n  - Home")[0]
    (tmp_path / "mkdocs.yml").write_text(settings.replace("docs/hooks.py", str(ROOT / "docs" / "hooks.py")))
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode != 0
    assert "../cli/gone.py" in done.stderr
    assert "away.md" in done.stderr
