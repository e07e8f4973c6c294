"""Where things are: the database, the broker and Endmark's own folder, from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from endmark.jobs.errors import UsageError
from endmark.jobs.private import make_home

DEMO_MODEL = "demo"  # the name under which the bundled model serves


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one process."""

    home: Path  # holds the SQLite file, the embedded broker's data and logs
    database_url: str  # a SQLAlchemy URL
    broker_url: str | None  # None: the embedded broker under `home`

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read `ENDMARK_HOME`, `ENDMARK_DATABASE_URL` and `ENDMARK_BROKER_URL`; make the home, private.

        Raises:
            UsageError: the home folder cannot be made.
        """
        home = Path(environ["ENDMARK_HOME"]) if environ.get("ENDMARK_HOME") else _user_data_dir(environ)
        home = home.expanduser().absolute()
        try:
            make_home(home, ours=not environ.get("ENDMARK_HOME"))
        except OSError as error:
            raise UsageError(
                f"cannot make the folder `{home}`: {error.strerror}",
                hint="set ENDMARK_HOME to another folder",
            ) from error
        return cls(
            home=home,
            database_url=environ.get("ENDMARK_DATABASE_URL") or f"sqlite:///{home / 'endmark.db'}",
            broker_url=environ.get("ENDMARK_BROKER_URL") or None,
        )

    def environment(self) -> dict[str, str]:
        """Return these settings as environment variables for a child process."""
        values = {"ENDMARK_HOME": str(self.home), "ENDMARK_DATABASE_URL": self.database_url}
        if self.broker_url:
            values["ENDMARK_BROKER_URL"] = self.broker_url
        return values


def _user_data_dir(environ: Mapping[str, str]) -> Path:
    """Return the user's data folder for Endmark by the XDG rules (on Linux and macOS alike)."""
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "endmark"
