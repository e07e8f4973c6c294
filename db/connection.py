"""Opening the ledger: one engine to read, one to write, on SQLite or Postgres."""

from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from endmark.db.failures import failure
from endmark.db.file_systems import network_file_system
from endmark.db.migrations import HEAD, migrate
from endmark.jobs.errors import MissingDependency, SchemaError, StoreError
from endmark.jobs.private import open_private, private_folder

_BUSY_WAIT = 30.0  # seconds that SQLite waits for another writer
# A server that is gone is noticed in seconds; a frozen worker's open transaction does not lock others out.
_POSTGRES_LINK = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "endmark",
}
_FROZEN_AFTER = "15s"


class Store:
    """The ledger, open. Safe to share between threads, not between processes."""

    def __init__(self, url: URL) -> None:
        self.url = url  # as its user has given it, for messages
        driven = url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg")
        self.dialect = driven.get_backend_name()
        self.reader = _engine(driven, writes=False)
        self.writer = _engine(driven, writes=True)

    @property
    def now(self) -> str:
        """The database's clock as an SQL expression: seconds since 1970, so that all hosts agree."""
        if self.dialect == "sqlite":
            return "((julianday('now') - 2440587.5) * 86400.0)"
        return "extract(epoch from clock_timestamp())::double precision"

    @property
    def like(self) -> str:
        """The operator that finds a pattern, ASCII letters in either case."""
        return "LIKE" if self.dialect == "sqlite" else "ILIKE"

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
        upgrade: whether to bring its schema up to date; by default only in a SQLite file without tables.

    Raises:
        StoreError: it cannot be reached, or lies on a file system on which SQLite loses data.
        SchemaError: its schema is not this program's.
        MissingDependency: the driver for Postgres is not installed.
    """
    store = Store(_parse(url))
    try:
        version = _version(store)
        if upgrade or (upgrade is None and store.dialect == "sqlite" and version == ""):
            with store.writer.begin() as connection:
                migrate(connection)
        else:
            _check_version(store, version)
    except DBAPIError as error:
        store.close()
        raise failure(store.url, error) from error
    except BaseException:
        store.close()
        raise
    return store


def upgrade(url: str) -> None:
    """Bring the schema at the URL up to date.

    Raises:
        StoreError: it cannot be reached, or lies on a file system on which SQLite loses data.
        MissingDependency: the driver for Postgres is not installed.
    """
    open_store(url, upgrade=True).close()


def _parse(url: str) -> URL:
    """Return the URL of a database that Endmark can use; check the place of a SQLite file."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError as error:
        raise StoreError(
            "ENDMARK_DATABASE_URL is no database URL", hint="sqlite:///FILE or postgresql://…"
        ) from error
    if backend == "sqlite":
        _check_place(parsed)
        return parsed
    if backend not in ("postgresql", "postgres"):
        raise StoreError(f"the database `{backend}` is not supported", hint="use SQLite or Postgres")
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingDependency("Postgres", "postgres") from error
    return parsed


def _check_place(url: URL) -> None:
    """Make the folder of a SQLite file, and the file; refuse a place where several processes cannot share it."""
    if not url.database or url.database == ":memory:":
        raise StoreError("a database in memory cannot be shared", hint="give a file: sqlite:///endmark.db")
    path = Path(url.database).absolute()
    try:
        private_folder(path.parent)
        kind = network_file_system(path.parent)
        if kind is None and not path.exists() and not url.database.startswith("file:"):
            open_private(path).close()  # what SQLite puts beside it has its mode
    except OSError as error:
        raise StoreError(
            f"cannot use the database `{path}`: {error.strerror}",
            hint="name another place in ENDMARK_HOME or ENDMARK_DATABASE_URL",
        ) from error
    if kind is not None:
        raise StoreError(
            f"`{path}` lies on a network file system ({kind}), on which SQLite loses data",
            hint="move ENDMARK_HOME to a local disk, or use Postgres by ENDMARK_DATABASE_URL",
        )


def _version(store: Store) -> str:
    """Return the version of the schema; empty if there are no tables at all."""
    with store.reader.connect() as connection:
        names = inspect(connection).get_table_names()
        if "alembic_version" in names:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "0000")
    return "0000" if names and store.dialect == "sqlite" else ""


def _check_version(store: Store, version: str) -> None:
    """Refuse a schema that this program cannot use; a newer one says from which version on programs can.

    Raises:
        SchemaError: it is older, or newer and of another make.
    """
    if not version:
        raise SchemaError("the database has no tables yet", hint="run `endmark db upgrade`")
    if version < HEAD:
        raise SchemaError(
            f"the database's schema is version {version}, this program writes {HEAD}",
            hint="run `endmark db upgrade`",
        )
    if version > HEAD:
        with store.reader.connect() as connection:
            oldest = connection.execute(text("SELECT oldest FROM compatibility")).scalar()
        if oldest is None or oldest > HEAD:
            raise SchemaError(
                f"the database's schema is version {version}, this program writes {HEAD}", hint="upgrade Endmark"
            )


def _engine(url: URL, *, writes: bool) -> Engine:
    """Return an engine; on SQLite with the settings without which writers lock each other out."""
    if url.get_backend_name() != "sqlite":
        link = {name: value for name, value in _POSTGRES_LINK.items() if name not in url.query}
        # Who writes begins again by itself where a pooled connection is dead (`transactions.write`).
        engine = create_engine(url, pool_pre_ping=not writes, pool_size=4, max_overflow=16, connect_args=link)
        event.listen(engine, "connect", partial(_prepare_postgres, writes=writes))
        if writes:
            event.listen(engine, "begin", _limit_open_transaction)
        return engine
    engine = create_engine(url, connect_args={"timeout": _BUSY_WAIT, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    # A plain BEGIN that writes later fails at once where another writer came first.
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _prepare_postgres(connection: Any, record: Any, *, writes: bool) -> None:  # noqa: ANN401 - the driver's own
    """Set what a connection to Postgres needs, and find out whether a pooler stands before the server.

    The server ends a transaction that writes where its client has stopped in the middle of it; one that reads may
    wait for whoever takes the rows of an export.

    A pooler such as PgBouncer tells a process of its own making when a client connects. In its mode `transaction`
    each transaction may run in another session, where what was prepared or set in one before is not, or is of
    another program.
    """
    connection.autocommit = True
    told = connection.info.backend_pid
    record.info["pooled"] = connection.execute("SELECT pg_backend_pid()").fetchone()[0] != told
    if record.info["pooled"]:
        connection.prepare_threshold = None
    elif writes:
        connection.execute(f"SET idle_in_transaction_session_timeout = '{_FROZEN_AFTER}'")
    connection.autocommit = False


def _limit_open_transaction(connection: Connection) -> None:
    """Let the server end a transaction behind a pooler, as it does for a session of one's own."""
    if connection.info["pooled"]:
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_FROZEN_AFTER}'")


def _prepare_sqlite(connection: Any, _record: Any) -> None:  # noqa: ANN401 - the driver's own
    """Set what every connection to SQLite needs; the driver shall not begin transactions by itself."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
