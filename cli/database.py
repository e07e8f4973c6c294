"""`endmark db`: look after the database."""

import click

from endmark.cli.terminal import note
from endmark.jobs.settings import Settings


@click.group(short_help="Look after the database.")
def db() -> None:
    """Look after the database that ENDMARK_DATABASE_URL names; by default a SQLite file under ENDMARK_HOME."""


@db.command(
    short_help="Bring the schema up to date.",
    epilog="\b\nExamples:\n  ENDMARK_DATABASE_URL=postgresql://localhost/endmark endmark db upgrade",
)
def upgrade() -> None:
    """Make the tables, or bring those of an older version up to date. A fresh SQLite file needs no such call."""
    from sqlalchemy.engine import make_url

    from endmark.db.connection import upgrade as upgrade_schema

    url = Settings.load().database_url
    upgrade_schema(url)
    note(f"the database `{make_url(url).render_as_string()}` is up to date")
