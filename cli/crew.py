"""The broker and the worker that `endmark run` needs: those that run already, else its own, which end with it."""

import os
import socket
from pathlib import Path
from types import TracebackType

from endmark.cli.terminal import note, one_line
from endmark.db.connection import Store
from endmark.db.workers import bury_worker, list_workers
from endmark.jobs.broker.access import Broker, ensure_broker
from endmark.jobs.engines import ANY_ENGINE, AUTO, EngineChoice
from endmark.jobs.errors import WorkerFailed
from endmark.jobs.launch.slots import Slot, take_slot
from endmark.jobs.launch.workers import WorkerOptions, WorkerProcess, start_worker
from endmark.jobs.settings import Settings
from endmark.jobs.spec import GenerationSpec

_LOG_LINES = 12


class Crew:
    """What works for one job while `endmark run` waits for it."""

    def __init__(
        self, settings: Settings, store: Store, spec: GenerationSpec, engine: EngineChoice = ANY_ENGINE
    ) -> None:
        self._settings = settings
        self._store = store
        self._spec = spec
        self._engine = engine
        self._told = False  # that a worker of another engine serves than was asked for
        self._heard = 0  # words of the worker that were passed on
        self._broker: Broker | None = None
        self._worker: WorkerProcess | None = None
        self._slot: Slot | None = None
        self._doing = "loading the model"
        self._deaths = 0  # of the worker that was started, as told

    def __enter__(self) -> "Crew":
        """Have a broker that answers, and a worker, or wait for that of another `endmark run`.

        Raises:
            BrokerError: there is no broker, and none can be started.
        """
        self._broker = ensure_broker(self._settings)
        try:
            self._forget_the_dead()
            if not self.served():
                self._start_worker()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what was started; say so at once if it is Ctrl-C that ends it, which need not wait when repeated."""
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._worker is not None and self.alive:
            grace = self._worker.grace
            note(f"stopping: rows that run have {grace:.0f} s to end; Ctrl-C again stops at once")
        self._leave()

    def _leave(self) -> None:
        """End the worker, and the broker if nobody else uses it."""
        assert self._broker is not None
        try:
            if self._worker is not None:
                self._pass_on_words(self._worker)  # of a job that ended between two looks
                self._worker.stop()
                self._forget_the_dead()
            if self._slot is not None:
                self._slot.close()
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

    @property
    def doing(self) -> str:
        """What it does while no worker has reported itself."""
        return self._doing

    def served(self) -> bool:
        """Whether a worker of the job's model is alive."""
        serving = [item for item in list_workers(self._store) if (item.model, item.adapter) == self._spec.queue]
        if serving and self._worker is None and not self._told:
            self._tell_engine({item.engine for item in serving})
        return bool(serving)

    def _tell_engine(self, engines: set[str]) -> None:
        """Say once if a worker that ran already has another engine than was asked for."""
        self._told = True
        wanted, found = self._engine.name(), " and ".join(sorted(engines))
        if wanted != AUTO and engines != {wanted}:
            note(f"a worker that ran already serves: its engine is `{found}`, and `{wanted}` was asked for")

    def _pass_on_words(self, worker: WorkerProcess) -> None:
        """Say once each thing that the worker that was started says of how it serves."""
        for word in worker.words()[self._heard :]:
            self._heard += 1
            note(one_line(word))

    def look_after(self, *, served: bool) -> None:
        """Start a worker if none was started and the one that was there has ended; say when ours has died."""
        if self._worker is None:
            if not served:
                self._start_worker()
            return
        self._pass_on_words(self._worker)
        count, last = self._worker.deaths()
        if count > self._deaths and self._worker.alive:
            often = "once" if count == 1 else f"{count} times"
            note(f"the worker died, {often} so far, and is started again: {one_line(last)}; {self._log_hint()}")
        self._deaths = count

    def failure(self) -> WorkerFailed:
        """Return why the worker that was started has ended."""
        assert self._worker is not None
        said = self._worker.failure()
        if said is not None:
            message, hint = said
            return WorkerFailed(
                f"the worker gave up: {message}", hint="; ".join(filter(None, (hint, self._log_hint())))
            )
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
        """Start a worker of the job's model, unless another process has started one that is in the way."""
        slot = take_slot(self._settings.home, self._spec.queue)
        if not isinstance(slot, Slot):
            self._wait_for(*slot)
            return
        self._slot = slot
        self._worker = start_worker(
            self._settings,
            WorkerOptions(model=self._spec.model, adapter=self._spec.adapter, engine=self._engine),
        )
        self._doing = "loading the model"
        note(f"started a worker for `{self._spec.model}`; its log is `{self._worker.log_path}`")

    def _wait_for(self, model: str, adapter: str | None) -> None:
        """Say, once, whose worker this job waits for."""
        same = (model, adapter) == self._spec.queue
        doing = "waiting for the worker of another `endmark run`" + ("" if same else f", on `{one_line(model)}`")
        if doing != self._doing:
            note(doing + (", which has the GPU" if not same else ""))
        self._doing = doing

    def _forget_the_dead(self) -> None:
        """Forget workers of this host whose process has ended: as long as they count as alive, none is started."""
        for item in list_workers(self._store):
            host, _, number = item.worker.rpartition(":")
            if host == socket.gethostname() and number.isdecimal() and not _runs(int(number)):
                bury_worker(self._store, item.worker)


def _runs(number: int) -> bool:
    """Whether a process of that id runs; one that has ended and that nobody has waited for does not."""
    try:
        os.kill(number, 0)
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (PermissionError, FileNotFoundError):  # another user's, or a system without /proc
        return True
    return state != "Z"
