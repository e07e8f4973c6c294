"""What a worker process leaves on disk for its supervisor: how far it came, and why it ends."""

import json
import logging
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from endmark.jobs.private import open_private

EXIT_CANNOT_START = 78  # a process that says why it cannot run; another try would end the same way

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """How far a worker process has come."""

    LOADING = "loading"  # its model
    IDLE = "idle"  # ready; it has been given no row, or trains
    WORKING = "working"  # on its first rows
    PROVEN = "proven"  # it has finished a row


@dataclass(frozen=True, slots=True)
class Life:
    """One process as it last described itself."""

    stage: Stage = Stage.LOADING
    reason: str | None = None  # why it ends, in one line
    hint: str | None = None


class LifeFile:
    """The file in which a process describes itself. Safe to use from several threads: each write is whole."""

    def __init__(self, path: Path | None) -> None:
        self._path = path  # None: nobody reads it
        self._life = Life()

    @property
    def stage(self) -> Stage:
        """How far the process has come."""
        return self._life.stage

    def reach(self, stage: Stage) -> None:
        """Note how far the process has come, if it is news: no process that has finished a row unlearns it."""
        if stage is not self._life.stage and self._life.stage is not Stage.PROVEN:
            self._write(replace(self._life, stage=stage))

    def end(self, reason: str, hint: str | None = None) -> None:
        """Note why the process ends; the first reason stays."""
        if self._life.reason is None:
            self._write(replace(self._life, reason=reason, hint=hint))

    def begin(self) -> None:
        """Describe a process that has just begun."""
        self._write(Life())

    def _write(self, life: Life) -> None:
        """Replace the file."""
        self._life = life
        if self._path is None:
            return
        try:
            write_whole(self._path, asdict(life))
        except OSError as error:  # a full disk, say: the rows that run are worth more
            log.warning("cannot tell the supervisor how far this process is: %s", error)


def read_life(path: Path) -> Life | None:
    """Return how a process described itself; None if it has not."""
    values = read_whole(path)
    return None if values is None else Life(Stage(values["stage"] or ""), values["reason"], values["hint"])


def write_whole(path: Path, values: dict[str, object]) -> None:
    """Replace a JSON file of ours; who reads it meanwhile sees the old one or the new one."""
    fresh = path.with_name(path.name + ".new")
    with open_private(fresh, "wb") as file:
        file.write(json.dumps(values).encode())
    fresh.replace(path)


def read_whole(path: Path) -> dict[str, str | None] | None:
    """Return what `write_whole` wrote; None if there is no such file."""
    try:
        values: dict[str, str | None] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return values
