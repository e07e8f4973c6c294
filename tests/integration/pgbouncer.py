"""A PgBouncer before the tests' Postgres, which hands out connections by transaction: Debian's `pgbouncer`."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sqlalchemy.engine import make_url

from tests.integration.ports import free_port
from tests.integration.service_fixtures import wait_until

PROGRAM = shutil.which("pgbouncer")
CONNECTIONS = 3  # to the server, of each database
_SETTINGS = """
[databases]
* = host={socket} user={user}
[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 1000
"""


class PgBouncer:
    """One pooler, on a unix socket, with its defaults but for what is above."""

    def __init__(self, server):
        there = make_url(server.url())
        self._port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="endmark-pgbouncer-"))
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(
            _SETTINGS.format(
                socket=there.query["host"],
                user=there.username,
                port=self._port,
                folder=self.folder,
                connections=CONNECTIONS,
            )
        )
        # It refuses to run as root, and gives that up for the user who may enter Postgres' folder.
        owner = Path(there.query["host"]).stat().st_uid
        as_user = ["-u", Path(there.query["host"]).owner()] if os.getuid() == 0 and owner else []
        shutil.chown(self.folder, owner)
        self._process = subprocess.Popen(
            [PROGRAM, *as_user, settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until((self.folder / f".s.PGSQL.{self._port}").exists)

    def url(self, url):
        """The URL of a database behind it."""
        return f"postgresql://postgres@/{make_url(url).database}?host={self.folder}&port={self._port}"

    def remove(self):
        """Stop it, and remove its folder."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder)
