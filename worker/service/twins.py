"""Rows that ask the same as another of their job, under `--dedupe`: they wait for its answer."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from endmark.db.connection import Store
from endmark.db.twins import answers_of, first_askers, handed_on
from endmark.jobs.vocabulary import Outcome
from endmark.worker.service.in_flight import InFlight, ShardRun
from endmark.worker.service.prompting import Prompt
from endmark.worker.service.rows import RowRun

Keyed = tuple[int, RowRun]
_MOST = 20_000  # rows that may wait before no more shards are claimed


@dataclass(slots=True)
class _Waiting:
    """Rows of one shard that wait."""

    shard: ShardRun
    rows: dict[int, tuple[RowRun, int]]  # by key: the row, and the one that was asked first
    since: float = field(default_factory=time.monotonic)


class Twins:
    """Keeps the rows of this process that wait for another row's answer.

    Args:
        patience: seconds after which a row is run itself: the other one may stand in a shard that nobody can take
            while this one is held.
        run: hands rows to the engine.
        deliver: hands outcomes to the writer, by key.
    """

    def __init__(
        self,
        store: Store,
        in_flight: InFlight,
        *,
        patience: float,
        run: Callable[[Sequence[Keyed]], None],
        deliver: Callable[[Sequence[tuple[int, Outcome]]], None],
    ) -> None:
        self._store = store
        self._in_flight = in_flight
        self._patience = patience
        self._run = run
        self._deliver = deliver
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []

    @property
    def crowded(self) -> bool:
        """Whether so many rows wait that no more shards should be claimed."""
        with self._lock:
            return sum(len(item.rows) for item in self._waiting) >= _MOST

    def kept_apart(self, shard: ShardRun, keyed: Sequence[Keyed]) -> list[Keyed]:
        """Keep the rows that another asked before; return the others, which are to be run.

        Raises:
            StoreError: the ledger cannot be reached.
        """
        digests = _digests(keyed)
        if not digests:
            return list(keyed)
        runs = dict(keyed)
        rounds = {runs[key].row.round for key in digests}
        waiting: dict[int, tuple[RowRun, int]] = {}
        for number in rounds:
            asked = {runs[key].row.row: digest for key, digest in digests.items() if runs[key].row.round == number}
            first = first_askers(self._store, shard.lease.key.job_id, number, asked)
            for key in digests:
                run = runs[key]
                if run.row.round == number and first[run.row.row] != run.row.row:
                    waiting[key] = run, first[run.row.row]
        if waiting:
            with self._lock:
                self._waiting.append(_Waiting(shard, waiting))
        return [(key, run) for key, run in keyed if key not in waiting]

    def settle(self) -> None:
        """Hand on what answers there are; run what has waited for too long, or for a row that failed.

        Raises:
            StoreError: the ledger cannot be reached.
        """
        held = set(self._in_flight.shards())
        with self._lock:
            self._waiting = [item for item in self._waiting if item.shard in held and item.rows]
            waiting = list(self._waiting)
        for item in waiting:
            self._settle(item)

    def _settle(self, item: _Waiting) -> None:
        """Hand on the answers for the rows of one shard."""
        job_id, late = item.shard.lease.key.job_id, time.monotonic() > item.since + self._patience
        outcomes: list[tuple[int, Outcome]] = []
        alone: list[Keyed] = []
        for number in {run.row.round for run, _ in item.rows.values()}:
            wanted = {key: found for key, found in item.rows.items() if found[0].row.round == number}
            answers = answers_of(self._store, job_id, number, {first for _, first in wanted.values()})
            for key, (run, first) in wanted.items():
                answer = answers.get(first)
                if answer is not None and answer.verdict.finish_reason.has_answer:
                    attempt = handed_on(answer, run.row.row, run.row.attempts + 1)
                    outcomes.append((key, Outcome(number, (attempt,))))
                elif late or answer is not None:
                    alone.append((key, run))
        with self._lock:
            for key, _ in (*outcomes, *alone):
                del item.rows[key]
        self._deliver(outcomes)
        self._run(alone)


def _digests(keyed: Sequence[Keyed]) -> dict[int, str]:
    """Return by key what the answers hang on, of rows whose answers are determined."""
    specs: dict[int, bytes] = {}  # rows without options of their own share their spec
    found: dict[int, str] = {}
    for key, run in keyed:
        prompt = run.prompt
        if not _is_determined(prompt):
            continue
        run.stream = 0  # of random numbers, which a strategy may draw: by the seed alone
        spec = specs.setdefault(id(prompt.spec), prompt.spec.to_json().encode())
        digest = hashlib.blake2b(spec, digest_size=16)
        digest.update(repr(prompt.token_ids).encode())
        found[key] = digest.hexdigest()
    return found


def _is_determined(prompt: Prompt) -> bool:
    """Whether rows that ask the same are answered alike: greedy ones, and those with a seed of their own."""
    spec = prompt.spec
    if not spec.dedupe or prompt.error is not None:
        return False
    return spec.sampling.temperature == 0 or ("seed" in prompt.request.overrides and spec.samples == 1)
