"""The numbers of a worker process for Prometheus, read when it asks; nothing is counted twice for it."""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from endmark.db.connection import Store
from endmark.db.progress import all_statuses
from endmark.jobs.errors import MissingDependency, StoreError
from endmark.jobs.launch.fitting import no_metrics
from endmark.jobs.progress import WorkerReport
from endmark.worker.engine.contract import EngineNumbers
from endmark.worker.service.meter import STEP_BOUNDS, Meter

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingDependency("`--metrics-port`", "metrics") from error

_LEDGER_EVERY = 10.0  # seconds; the sums over all shards are read no more often


class WorkerMetrics(Collector):
    """All metrics of one process.

    Args:
        engine: of the process.
        meter: of its service.
        lease_age: seconds since the lease that has waited longest was last prolonged.
        store: the ledger, for the rows of all jobs.
        identity: the worker; its labels.
    """

    def __init__(
        self,
        engine: EngineNumbers,
        meter: Meter,
        lease_age: Callable[[], float],
        store: Store,
        identity: WorkerReport,
    ) -> None:
        self._engine = engine
        self._meter = meter
        self._lease_age = lease_age
        self._store = store
        self._identity = identity
        self._states: Counter[str] = Counter()
        self._read_at: float | None = None

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        engine, meter = self._engine, self._meter
        used, pages = engine.pages
        worker = GaugeMetricFamily(
            "endmark_worker_info",
            "What the worker holds.",
            labels=["worker", "model", "device", "engine", "weights"],
        )
        own = self._identity
        worker.add_metric([own.worker, own.model, own.device, own.engine, own.weights], 1)
        yield worker
        yield from self._rows()
        yield _counter(
            "endmark_tokens_sampled", "Tokens sampled by the engine, dropped ones too.", engine.row_steps
        )
        tokens = CounterMetricFamily("endmark_tokens", "Tokens of stored rows.", labels=["kind"])
        tokens.add_metric(["prompt"], meter.prompt_tokens)
        tokens.add_metric(["completion"], meter.completion_tokens)
        tokens.add_metric(["reasoning"], meter.reasoning_tokens)
        yield tokens
        yield self._steps()
        yield _gauge("endmark_running_rows", "Rows in the batch.", engine.running)
        yield _gauge("endmark_waiting_rows", "Rows that wait for a place in the batch.", engine.waiting)
        yield _gauge("endmark_kv_pages_used", "Pages of the KV cache in use.", used)
        yield _gauge("endmark_kv_pages", "Pages of the KV cache.", pages)
        yield _counter("endmark_preemptions", "Rows sent back because no KV page was left.", engine.preemptions)
        yield _gauge("endmark_lease_age_seconds", "Since the oldest lease was prolonged.", self._lease_age())
        yield _counter("endmark_reaped_shards", "Shards taken up after their worker had died.", meter.reaped)

    def _rows(self) -> Iterable[Metric]:
        """Return the rows that this process has finished, and those of all jobs in the ledger."""
        finished = CounterMetricFamily(
            "endmark_rows_finished", "Rows stored by this worker.", labels=["finish_reason", "eos_source"]
        )
        for (reason, source), count in sorted(self._meter.rows.items()):
            finished.add_metric([reason, source], count)
        yield finished
        endings = CounterMetricFamily("endmark_answers", "Answers stored, by where they end.", labels=["ending"])
        for ending, count in sorted(self._meter.endings.items()):
            endings.add_metric([ending], count)
        yield endings
        parts = CounterMetricFamily(
            "endmark_parts", "Rows stored, by the part they ended in.", labels=["ended_in", "thought_closed"]
        )
        for (part, closed), count in sorted(self._meter.parts.items()):
            parts.add_metric([part, closed], count)
        yield parts
        rows = GaugeMetricFamily("endmark_rows", "Rows of all jobs in the ledger, by state.", labels=["state"])
        for state, count in self._ledger().items():
            rows.add_metric([state], count)
        yield rows

    def _ledger(self) -> Counter[str]:
        """Return the rows of all jobs by state; of the last look while the ledger cannot be read."""
        now = time.monotonic()
        if self._read_at is None or now - self._read_at > _LEDGER_EVERY:
            self._read_at = now
            try:
                found = all_statuses(self._store)
            except StoreError:
                return self._states
            names = ("pending", "running", "succeeded", "failed", "cancelled")
            self._states = Counter({name: sum(getattr(job, name) for job in found) for name in names})
        return self._states

    def _steps(self) -> Metric:
        """Return how long the engine's steps took."""
        counts = list(self._meter.steps)
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, STEP_BOUNDS), "+Inf"), counts, strict=True):
            total += count
            buckets.append((bound, total))
        steps = HistogramMetricFamily("endmark_step_seconds", "How long a step of the engine takes.")
        steps.add_metric([], buckets, self._meter.step_seconds)
        return steps


def _gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels."""
    return CounterMetricFamily(name, text, value=value)


def serve_metrics(metrics: WorkerMetrics, host: str, port: int) -> None:
    """Answer Prometheus on a port of one address, on a thread of its own.

    Raises:
        UsageError: the address or the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:
        raise no_metrics(host, port, error) from error
