"""Postgres's COPY: many rows as one block of text, past SQLAlchemy, with its errors as SQLAlchemy names them."""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


def copy_block(connection: Connection, statement: str, block: str) -> None:
    r"""Store rows.

    Args:
        statement: `COPY … FROM STDIN`.
        block: a line a row, values separated by tabs; backslashes, tabs and line ends in values are escaped.

    Raises:
        DBAPIError: the database refuses them, or is away.
    """
    link: Any = connection.connection  # psycopg's, whose cursors SQLAlchemy does not describe
    error_class = connection.dialect.loaded_dbapi.Error
    try:
        with link.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(block)
    except error_class as error:  # past SQLAlchemy, which would have wrapped it
        raise DBAPIError.instance(statement, None, error, error_class, dialect=connection.dialect) from error
