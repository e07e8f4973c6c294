"""The migrations are one chain without a gap, as two that were written side by side would not be."""

import re
from pathlib import Path

import pytest

from endmark.db import migrations

pytestmark = pytest.mark.unit

VERSIONS = Path(migrations.__file__).parent / "versions"


def test_each_migration_follows_the_one_before_it():
    files = sorted(VERSIONS.glob("v*.py"))
    before = None
    for number, file in enumerate(files, 1):
        told = dict(re.findall(r'^(revision|down_revision) = (?:"(\d+)"|None)$', file.read_text("utf-8"), re.M))
        expected = f"{number:04d}"
        assert file.name.startswith(f"v{expected}_"), f"{file.name} is the {number}th: a gap, or a number twice"
        assert told == {"revision": expected, "down_revision": before or ""}, file.name
        before = expected
    assert before == migrations.HEAD
