"""The broker and the worker that `endmark run` needs: those that run already, else its own, which end with it."""

from types import TracebackType

from endmark.cli.terminal import note
from endmark.db.connection import Store
from endmark.db.workers import list_workers
from endmark.jobs.broker.access import Broker, ensure_broker
from endmark.jobs.errors import WorkerFailed
from endmark.jobs.launch.workers import WorkerOptions, WorkerProcess, start_worker
from endmark.jobs.settings import Settings
from endmark.jobs.spec import GenerationSpec

_LOG_LINES = 12


class Crew:
    """What works for one job while `endmark run` waits for it."""

    def __init__(self, settings: Settings, store: Store, spec: GenerationSpec) -> None:
        self._settings = settings
        self._store = store
        self._spec = spec
        self._broker: Broker | None = None
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> "Crew":
        """Have a broker that answers, and a worker.

        Raises:
            BrokerError: there is no broker, and none can be started.
        """
        self._broker = ensure_broker(self._settings)
        if not self.served():
            try:
                self._start_worker()
            except BaseException:
                self._broker.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what was started."""
        assert self._broker is not None
        try:
            if self._worker is not None:
                self._worker.stop()
        finally:
            self._broker.release()

    @property
    def broker_url(self) -> str:
        """Where messages go."""
        assert self._broker is not None
        return self._broker.url

    @property
    def alive(self) -> bool:
        """Whether the worker that was started still runs; true if none was."""
        return self._worker is None or self._worker.alive

    def served(self) -> bool:
        """Whether a worker of the job's model is alive."""
        return any((item.model, item.adapter) == self._spec.queue for item in list_workers(self._store))

    def look_after(self, *, served: bool) -> None:
        """Start a worker if none was started and the one that was there has gone."""
        if self._worker is None and not served:
            note("the worker that ran this model has ended")
            self._start_worker()

    def failure(self) -> WorkerFailed:
        """Return why the worker that was started has ended."""
        assert self._worker is not None
        said = self._worker.failure()
        if said is not None:
            message, hint = said
            return WorkerFailed(f"the worker gave up: {message}", hint=hint or self._log_hint())
        tail = "".join(f"\n  {line}" for line in self._worker.tail(_LOG_LINES).splitlines())
        return WorkerFailed(
            f"the worker ended with code {self._worker.returncode}; the last lines of its log:{tail or ' none'}",
            hint=self._log_hint(),
        )

    def _log_hint(self) -> str:
        """Return where the whole log is."""
        assert self._worker is not None
        return f"its log is `{self._worker.log_path}`"

    def _start_worker(self) -> None:
        """Start a worker of the job's model."""
        self._worker = start_worker(
            self._settings, WorkerOptions(model=self._spec.model, adapter=self._spec.adapter)
        )
        note(f"started a worker for `{self._spec.model}`; its log is `{self._worker.log_path}`")
