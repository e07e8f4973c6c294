"""docs/operations.md on backups, word by word: a copy is made while work goes on, and used elsewhere."""

import os
import re
import shlex
import sqlite3
import subprocess
from pathlib import Path

import pytest

from endmark.db.attempts import commit
from endmark.db.connection import open_store
from endmark.db.jobs import load_job, resume_job
from endmark.db.progress import job_status
from endmark.db.rows import unfinished_rows
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import results, submit
from tests.integration.store.ledger import answer_all, counters, outcome, recounted, take

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


def documented(title):
    """The commands of the backup part of the docs under a title."""
    part = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## Backups")[2]
    block = re.search(rf"^\*\*{title}\*\*.*?^```\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    return [line.partition(" #")[0].strip() for line in block[1].splitlines()]


def sqlite_copy(store, tmp_path):
    """Copy and restore as documented, by Python's sqlite3 where the command line's does not stand."""
    backup, restore = documented("SQLite")
    found = re.fullmatch(r"""sqlite3 \S+endmark\.db "VACUUM INTO '(\S+)'\"""", backup)
    assert found, backup
    assert restore == f"cp {found[1]} ~/.local/share/endmark/endmark.db"
    copy = tmp_path / "restored" / "endmark.db"
    copy.parent.mkdir()
    source = sqlite3.connect(store.url.database)
    source.execute(f"VACUUM INTO '{copy}'")
    source.close()
    return f"sqlite:///{copy}"


def postgres_copy(store, tmp_path, postgres):
    """Run the documented lines with the server's own programs."""
    backup, make, restore = documented("Postgres")
    target = postgres.url("restored")
    environment = {"PATH": f"{postgres.programs}:{os.environ['PATH']}"}
    source = store.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")
    server = postgres.url("postgres")
    for line, variables in ((backup, {"ENDMARK_DATABASE_URL": source}), (make, {}), (restore, {})):
        words = [
            word.replace("$ENDMARK_DATABASE_URL", variables.get("ENDMARK_DATABASE_URL", ""))
            .replace("postgresql://HOST/postgres", server)
            .replace("postgresql://HOST/restored", target)
            for word in shlex.split(line)
        ]
        subprocess.run(words, env=environment, cwd=tmp_path, check=True)
    return target


@pytest.fixture
def restored(store, tmp_path, dialect, request):
    """Make a copy of the ledger; yields a function that opens it, once what follows in the original is done."""
    if dialect == "sqlite":
        return lambda: sqlite_copy(store, tmp_path)
    return lambda: postgres_copy(store, tmp_path, request.getfixturevalue("postgres"))


def test_a_copy_made_while_work_goes_on_is_gone_on_with_where_it_was_made(store, restored):
    """Rows whose results came after the copy are run again; those before it are kept."""
    job = submit(store, [f"prompt {row}" for row in range(12)], shard_size=4)
    lease = take(store)
    commit(store, lease, [outcome(row, text="before") for row in (0, 1)])
    url = restored()
    commit(store, lease, [outcome(row, text="after") for row in (2, 3)])
    answer_all(store, text="after")
    with open_store(url) as copy:
        assert load_job(copy, job).state is JobState.RUNNING
        assert [row for row, *_ in results(copy, job)] == [0, 1]
        resume_job(copy, job)
        held = [item.row for item in unfinished_rows(copy, lease)]
        assert held == [2, 3]
        commit(copy, lease, [outcome(row, text="again") for row in held])
        answer_all(copy, text="again")
        status = job_status(copy, job)
        assert (status.succeeded, status.failed) == (12, 0)
        assert [text for *_, text in results(copy, job)] == ["before"] * 2 + ["again"] * 10
        assert counters(copy, job) == recounted(copy, job)
    assert [text for *_, text in results(store, job)] == ["before"] * 2 + ["after"] * 10
