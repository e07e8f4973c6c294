"""The migrations are one chain without a gap, as two that were written side by side would not be."""

import re
from pathlib import Path

import pytest
from sqlalchemy import inspect

from endmark.db import migrations
from endmark.db.connection import open_store
from endmark.db.schema import metadata

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


def test_the_tables_are_as_the_queries_see_them(tmp_path):
    """The migrations make them: what `schema` says of a column and the database does not do would mislead."""
    store = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    try:
        made = inspect(store.reader)
        assert {*made.get_table_names()} == {*metadata.tables, "alembic_version"}
        for name, table in metadata.tables.items():
            found = {item["name"]: (item["nullable"], item["primary_key"] > 0) for item in made.get_columns(name)}
            assert found == {column.name: (column.nullable, column.primary_key) for column in table.columns}, name
    finally:
        store.close()
