"""Opening the ledger: one engine to read, one to write, on SQLite or Postgres."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from jobs.errors import MissingDependency, SchemaError, StoreError

HEAD = "0001"  # the newest migration
_BUSY_WAIT = 30.0  # seconds that SQLite waits for another writer
_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "lustre", "beegfs"}


class Store:
    """The ledger, open. Safe to share between threads, not between processes."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.dialect = url.get_backend_name()
        self.reader = _engine(url, writes=False)
        self.writer = _engine(url, writes=True)

    @property
    def now(self) -> str:
        """The database's clock as an SQL expression: seconds since 1970, so that all hosts agree."""
        if self.dialect == "sqlite":
            return "((julianday('now') - 2440587.5) * 86400.0)"
        return "extract(epoch from clock_timestamp())::double precision"

    def close(self) -> None:
        """Close all connections."""
        self.reader.dispose()
        self.writer.dispose()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(url: str, *, upgrade: bool | None = None) -> Store:
    """Open the ledger at a SQLAlchemy URL.

    Args:
        url: `sqlite:///FILE` or `postgresql://…`.
        upgrade: whether to bring its schema up to date; by default only on a fresh SQLite file.

    Raises:
        StoreError: it cannot be reached, or lies on a file system on which SQLite loses data.
        SchemaError: its schema is not this program's.
    """
    parsed = _parse(url)
    fresh = parsed.get_backend_name() == "sqlite" and _is_fresh(parsed)
    store = Store(parsed)
    try:
        if upgrade or (upgrade is None and fresh):
            migrate(store)
        else:
            _check_schema(store)
    except BaseException:
        store.close()
        raise
    return store


def upgrade(url: str) -> None:
    """Bring the schema at the URL up to date."""
    open_store(url, upgrade=True).close()


def migrate(store: Store) -> None:
    """Run the migrations that the store lacks."""
    from alembic import command  # half a second of imports, needed once
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with store.writer.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise unreachable(store, error) from error


def unreachable(store: Store, error: DBAPIError) -> StoreError:
    """Return the error that says that the database did not do what was asked."""
    reason = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
    hint = "check ENDMARK_DATABASE_URL and that the server runs"
    if store.dialect == "sqlite":
        full = "full" in reason
        hint = "free some disk space" if full else "check that the file and its folder can be written"
    return StoreError(f"the database `{store.url.render_as_string()}` cannot be used: {reason}", hint=hint)


def _parse(url: str) -> URL:
    """Return the URL with the driver that Endmark uses."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError as error:
        raise StoreError(f"`{url}` is not a database URL", hint="sqlite:///FILE or postgresql://…") from error
    if backend == "sqlite":
        return parsed
    if backend != "postgresql":
        raise StoreError(f"the database `{backend}` is not supported", hint="use SQLite or Postgres")
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingDependency("Postgres", "postgres") from error
    return parsed.set(drivername="postgresql+psycopg")


def _is_fresh(url: URL) -> bool:
    """Whether the SQLite file is not there yet or empty; make its folder."""
    if not url.database or url.database == ":memory:":
        raise StoreError("a database in memory cannot be shared", hint="give a file: sqlite:///endmark.db")
    path = Path(url.database).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = _file_system(path.parent)
        if kind in _NETWORK_FILE_SYSTEMS:
            raise StoreError(
                f"`{path}` lies on a network file system ({kind}), on which SQLite loses data",
                hint="move ENDMARK_HOME to a local disk, or use Postgres",
            )
        return not path.exists() or path.stat().st_size == 0
    except OSError as error:
        raise StoreError(f"cannot use `{path}`: {error.strerror}", hint="set ENDMARK_HOME") from error


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds the folder; empty where it cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    real = os.path.realpath(folder)
    for line in mounts:
        _, point, name, *_ = line.split()
        point = point.replace("\\040", " ")
        if len(point) > len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, name
    return kind


def _check_schema(store: Store) -> None:
    """Refuse a schema that is not this program's."""
    with_hint = "run `endmark db upgrade`"
    try:
        with store.reader.connect() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except DBAPIError as error:
        reason = str(error.orig)
        if "alembic_version" in reason:
            raise SchemaError("the database has no tables yet", hint=with_hint) from error
        raise unreachable(store, error) from error
    if found != HEAD:
        older = found is None or found < HEAD
        raise SchemaError(
            f"the database's schema is version {found}, this program writes {HEAD}",
            hint=with_hint if older else "upgrade Endmark",
        )


def _engine(url: URL, *, writes: bool) -> Engine:
    """Return an engine; on SQLite with the settings without which writers lock each other out."""
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=4, max_overflow=16)
    engine = create_engine(url, connect_args={"timeout": _BUSY_WAIT, "check_same_thread": False})

    def connected(connection: Any, _record: Any) -> None:  # noqa: ANN401
        connection.isolation_level = None  # the driver shall not begin transactions by itself
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    def begins(connection: Any) -> None:  # noqa: ANN401
        # A plain BEGIN that writes later fails at once where another writer came first.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begins)
    return engine
