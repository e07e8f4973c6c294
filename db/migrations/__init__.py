"""The schema's versions, brought up to date by Alembic from inside the package."""

from pathlib import Path

from sqlalchemy import Connection, text

HEAD = "0023"  # the newest version
# Programs of this version and later can use a ledger of HEAD. A migration that adds tables, or columns with a
# default, leaves it; one that takes away or changes what they read or write raises it.
OLDEST = "0013"


def migrate(connection: Connection, version: str = HEAD) -> None:
    """Run the migrations up to a version that the database lacks, one process at a time."""
    from alembic import command  # half a second of imports, needed once
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('endmark.migrate'))"))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, version)
    if version == HEAD:
        connection.execute(text("DELETE FROM compatibility"))
        connection.execute(text("INSERT INTO compatibility (oldest) VALUES (:oldest)"), {"oldest": OLDEST})
