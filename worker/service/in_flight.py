"""The shards that this process holds, and which of their rows each key in the engine stands for."""

import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from endmark.jobs.vocabulary import Lease
from endmark.worker.service.rows import RowRun


@dataclass(slots=True, eq=False)
class ShardRun:
    """A claimed shard until its last row is stored or its lease is lost."""

    lease: Lease
    keys: set[int] = field(default_factory=set)  # in the engine, or on their way into the ledger
    over: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        key = self.lease.key
        return f"job {key.job_id} shard {key.shard}"


class InFlight:
    """All shards that this process holds. Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys = itertools.count()
        self._shards: set[ShardRun] = set()
        self._rows: dict[int, tuple[ShardRun, RowRun]] = {}

    def open(self, shard: ShardRun, rows: Iterable[RowRun]) -> list[tuple[int, RowRun]]:
        """Take in a shard; return its rows with their keys."""
        with self._lock:
            keyed = [(next(self._keys), row) for row in rows]
            shard.keys.update(key for key, _ in keyed)
            self._shards.add(shard)
            self._rows.update((key, (shard, row)) for key, row in keyed)
        return keyed

    def find(self, key: int) -> tuple[ShardRun, RowRun] | None:
        """Return the row of a key; None if its shard is no longer held."""
        with self._lock:
            return self._rows.get(key)

    def settle(self, shard: ShardRun, keys: Iterable[int]) -> bool:
        """Forget rows that are stored; return whether the shard is held and has no others."""
        with self._lock:
            for key in keys:
                shard.keys.discard(key)
                self._rows.pop(key, None)
            return shard in self._shards and not shard.keys

    def close(self, shard: ShardRun) -> set[int] | None:
        """Forget a shard and wake who waits for it; return the keys it still had, None if it was closed before."""
        with self._lock:
            held = shard in self._shards
            self._shards.discard(shard)
            left, shard.keys = shard.keys, set()
            for key in left:
                self._rows.pop(key, None)
        shard.over.set()
        return left if held else None

    def shards(self) -> list[ShardRun]:
        """Return the shards held now."""
        with self._lock:
            return list(self._shards)
