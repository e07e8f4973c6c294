"""The disk of a SQLite ledger: it can be full, and forgets at a loss of power what it was not told to keep."""

import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

from tests.cluster.host import COMPILER

_SIZE = 48  # MB
_BLOCK = 4096  # bytes that are written as a whole


class Disk:
    """A small disk of its own, mounted in a folder.

    Args:
        folder: a folder that the test has.
        random: says what is left of unflushed blocks after a loss of power.
    """

    def __init__(self, folder, random):
        self._random = random
        self._disk, self._kept = folder / "disk", folder / "kept"
        self._since = None  # since when what was stored may be lost, where nothing was flushed yet
        for made in (self._disk, self._kept):
            made.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}m", "endmark", self._disk], check=True)
        self.ledger = self._disk / "ledger.db"
        self._library = folder / "disk.so"
        if COMPILER:
            source = Path(__file__).with_name("disk.c")
            subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", self._library, source], check=True)

    def environment(self):
        """What lets a process note what it flushes."""
        if not COMPILER:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "ENDMARK_DISK": str(self._disk),
            "ENDMARK_KEPT": str(self._kept),
        }

    def fill(self):
        """Leave no room."""
        with (self._disk / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(65536)) == 65536:
                    pass
            except OSError:
                pass

    def free(self):
        """Give the room back."""
        (self._disk / "filler").unlink(missing_ok=True)

    def flush(self):
        """Keep all that the test itself has stored; before any worker starts."""
        with sqlite3.connect(self.ledger) as link:
            link.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        link.close()
        shutil.copy(self.ledger, self._kept)
        self._since = time.monotonic()

    def forget(self, close):
        """Lose power: each block that was written since its file was flushed is as it was, or as it is now.

        Args:
            close: ends the test's own connections; all other processes that use the ledger have been killed.

        Returns:
            From when to when, by the monotonic clock, what was stored may be lost.
        """
        log = self.ledger.with_name("ledger.db-wal")
        found = [(path, path.read_bytes(), self._kept / path.name) for path in (self.ledger, log)]
        if found[1][2].exists():
            self._since = time.monotonic() - (time.time() - found[1][2].stat().st_mtime)
        close()
        for path, now, kept in found:
            path.write_bytes(self._left(now, kept.read_bytes() if kept.exists() else b""))
        self.ledger.with_name("ledger.db-shm").unlink(missing_ok=True)
        link = sqlite3.connect(self.ledger)
        assert link.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        link.close()
        return self._since, time.monotonic()

    def _left(self, now, kept):
        """What is left of a file."""
        size = self._random.choice((len(now), len(kept)))
        before, after = (data.ljust(size, b"\0")[:size] for data in (kept, now))
        places = range(0, size, _BLOCK)
        return b"".join(self._random.choice((before, after))[at : at + _BLOCK] for at in places)

    def remove(self):
        """Unmount it."""
        subprocess.run(["umount", self._disk], check=True)
