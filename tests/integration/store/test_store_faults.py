"""The database full, away, foreign, old, or where it would lose data: what is said, and what goes on."""

import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from endmark.db import failures, file_systems
from endmark.db.attempts import commit
from endmark.db.connection import open_store, upgrade
from endmark.db.failures import failure, passes
from endmark.db.file_systems import network_file_system
from endmark.db.jobs import load_job
from endmark.db.migrations import HEAD
from endmark.db.progress import job_status
from endmark.jobs.errors import SchemaError, StoreError
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import (
    QUICKLY,
    Worker,
    gated,
    results,
    shards_of,
    state_of,
    submit,
    wait_until,
)
from tests.integration.store.ledger import answer, execute, outcome, rows_of, take

pytestmark = pytest.mark.integration


class Disk:
    """A disk that is full until it has room: SQLite itself refuses to let its file grow."""

    def __init__(self, store):
        self.full = False
        event.listen(store.writer, "begin", self.set_limit)

    def set_limit(self, connection):
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() if self.full else 2**31
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_a_worker_waits_for_room_on_a_full_disk(tmp_path, caplog):
    with open_store(f"sqlite:///{tmp_path / 'ledger.db'}") as store:
        disk = Disk(store)
        job = submit(store, [f"place {row}" for row in range(200)])
        gate, script = gated()
        worker = Worker(store, script=script)
        try:
            wait_until(lambda: any(state == "running" for state, _, _ in shards_of(store, job)))
            disk.full = True
            gate.set()
            wait_until(lambda: "cannot store its rows, trying again" in caplog.text)
            assert "is full" in caplog.text
            assert state_of(store, job) is JobState.RUNNING
            disk.full = False
            wait_until(lambda: state_of(store, job) is JobState.COMPLETED, 30)
        finally:
            worker.drain(0)
        assert [row for row, *_ in results(store, job)] == list(range(200))


def test_a_full_disk_is_named_with_the_fix_and_nothing_half_is_stored(tmp_path):
    with open_store(f"sqlite:///{tmp_path / 'ledger.db'}") as store:
        disk = Disk(store)
        disk.full = True
        with pytest.raises(StoreError, match="is full") as caught:
            submit(store, ["x" * 1000] * 2000)
        assert "make room" in caught.value.hint
        assert rows_of(store, "SELECT count(*) FROM rows") == [(0,)]


def test_sqlite_says_only_that_reading_or_writing_failed_when_the_disk_is_full(tmp_path, monkeypatch):
    """Without room for its index file, SQLite cannot even read, and does not say why."""
    error = OperationalError("PRAGMA journal_mode=WAL", {}, sqlite3.OperationalError("disk I/O error"))
    url = make_url(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert "can be written" in failure(url, error).hint
    monkeypatch.setattr(failures.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert "the disk is full" in str(failure(url, error))
    assert "make room" in failure(url, error).hint


def test_the_words_of_a_full_server_are_known():
    error = OperationalError(
        "INSERT", {}, psycopg.errors.DiskFull('could not extend file "base/1": No space left on device')
    )
    said = failure(make_url("postgresql://me:secret@host/db"), error)
    assert "make room" in said.hint
    assert "secret" not in str(said)
    assert not passes(error)


def test_a_server_that_is_restarted_costs_nothing_but_time(postgres, postgres_template):
    """A worker stores its rows when the server is back; a crash in between loses nothing that was stored."""
    with open_store(postgres.create(postgres_template)) as store:
        job = submit(store, [f"place {row}" for row in range(100)])
        answer(store, take(store))
        gate, script = gated()
        # What cannot be given back while the server is away comes back with the end of its lease.
        worker = Worker(store, script=script, pace=replace(QUICKLY, lease=10.0))
        try:
            wait_until(lambda: any(state == "running" for state, _, _ in shards_of(store, job)))
            postgres.stop("immediate")
            gate.set()
            with pytest.raises(StoreError, match="cannot be used") as caught:
                job_status(store, job)
            assert "check that the server runs" in caught.value.hint
            postgres.start()
            wait_until(lambda: state_of(store, job) is JobState.COMPLETED, 120)
        finally:
            postgres.start()
            worker.drain(0)
        assert [row for row, *_ in results(store, job)] == list(range(100))


def test_a_commit_goes_through_a_restart_by_itself(postgres, postgres_template):
    with open_store(postgres.create(postgres_template)) as store:
        submit(store, ["x"] * 2)
        lease = take(store)
        postgres.restart("immediate")  # its pooled connection is dead now
        commit(store, lease, [outcome(0), outcome(1)])
        assert rows_of(store, "SELECT count(*) FROM attempts") == [(2,)]


def test_an_upgrade_is_harmless_when_repeated_and_other_versions_are_refused(store, database_url):
    job = submit(store, ["x"])
    upgrade(database_url)
    assert load_job(store, job).total == 1
    execute(store, "DELETE FROM compatibility")
    for version, fix in (("0000", "endmark db upgrade"), ("9999", "upgrade Endmark")):
        execute(store, "UPDATE alembic_version SET version_num = :version", version=version)
        with pytest.raises(SchemaError, match=f"version {version}, this program writes {HEAD}") as caught:
            open_store(database_url)
        assert fix in caught.value.hint


def test_an_empty_server_is_told_from_one_that_is_away(postgres):
    with pytest.raises(SchemaError, match="no tables") as caught:
        open_store(postgres.create())
    assert "endmark db upgrade" in caught.value.hint
    with pytest.raises(StoreError, match="cannot be used") as gone:
        open_store("postgres://me:secret@127.0.0.1:1/none?password=secret&connect_timeout=9")
    assert "`postgres://me:***@127.0.0.1:1/none?connect_timeout=9`" in str(gone.value)  # as it was given


def test_a_file_that_is_not_a_database_is_named(tmp_path):
    (tmp_path / "ledger.db").write_text("these are my holiday notes " * 100)
    with pytest.raises(StoreError, match="not a database") as caught:
        open_store(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert "name another" in caught.value.hint
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE jobs (mine TEXT)")
    other.close()
    with pytest.raises(SchemaError):
        open_store(f"sqlite:///{tmp_path / 'other.db'}")


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_other_urls_are_refused(url):
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert caught.value.hint


def test_a_network_file_system_is_refused_for_sqlite(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/export {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(file_systems, "_MOUNTS", mounts)
    with pytest.raises(StoreError, match="network file system \\(nfs4\\)") as caught:
        open_store(f"sqlite:///{tmp_path / 'deep' / 'ledger.db'}")
    assert "Postgres" in caught.value.hint


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("/dev/sda / ext4 rw 0 0", None),
        ("host:/x /mnt nfs rw 0 0\n/dev/sdb /mnt/local xfs rw 0 0", None),
        ("host:/x /mnt/local nfs rw 0 0", "nfs"),
        ("//host/share /mnt cifs rw 0 0", "cifs"),
        ("me@host: /mnt fuse.sshfs rw 0 0", "fuse.sshfs"),
        ("/dev/sdc /mnt fuse.ntfs-3g rw 0 0", None),
        ("/dev/sda /mnt ext4 rw 0 0\nhost:/x /mnt nfs4 rw 0 0", "nfs4"),
        ("host:/x /mnt/loc nfs rw 0 0", None),
    ],
)
def test_the_innermost_mount_tells(table, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(file_systems.os.path, "realpath", lambda path: "/mnt/local/home")
    assert network_file_system(tmp_path, table) == kind


def test_the_tables_are_those_that_the_queries_know(database_url):
    """What the migrations make is what `endmark.db.schema` says, but for a key that SQLite has kept."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from endmark.db.schema import metadata

    upgrade(database_url)
    url = make_url(database_url)
    engine = create_engine(url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        found = compare_metadata(context, metadata)
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
    engine.dispose()
    kept = ["remove_fk"] if url.get_backend_name() == "sqlite" else []
    assert [item[0] for item in found if "alembic_version" not in str(item)] == kept, found
