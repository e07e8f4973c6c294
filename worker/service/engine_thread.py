"""The thread that owns the engine: requests go in, finished attempts come out, and nothing else runs on it."""

import gc
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from endmark.jobs.errors import EndmarkError
from endmark.jobs.vocabulary import EosTrace, FinishReason, Verdict
from endmark.worker.engine.contract import InferenceEngine
from endmark.worker.engine.request import Finished, Request
from endmark.worker.process.guarded import Broken, Guarded
from endmark.worker.process.traces import described
from endmark.worker.service.meter import Meter

_IDLE = 1.0  # seconds between looks when there is nothing to run
# The engine lets go of the interpreter at each of its kernels, and a thread that is busy hands it back only after
# this time. With Python's 0.005 s one such thread makes a step some hundred times longer.
_SWITCH_INTERVAL = 2e-5  # seconds

log = logging.getLogger(__name__)


class EngineThread:
    """Runs an engine's steps for as long as it has work.

    Args:
        engine: the engine, touched by this thread alone from `start` on.
        deliver: takes the attempts that a step ended; must not block.
        broken: told on this thread when a step raises, which leaves the engine unusable.
        meter: counts the steps.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        deliver: Callable[[Sequence[Finished]], None],
        broken: Broken,
        meter: Meter | None = None,
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._meter = meter or Meter()
        self._inbox: deque[Request | frozenset[int]] = deque()
        self._changed = threading.Condition()
        self._waiting = 0  # rows in the inbox or without a slot
        self._stopping = False
        self._step_began: float | None = None
        self.thread = Guarded("engine", self._run, broken)

    def start(self) -> None:
        """Begin; from now on all threads of the process let this one in soon.

        Python looks for garbage in what is loaded by then no more: with a vocabulary of 128,256 that takes a
        third of a second, for which a step waits.
        """
        sys.setswitchinterval(_SWITCH_INTERVAL)
        gc.collect()
        gc.freeze()
        self.thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand attempts to the engine, in order."""
        with self._changed:
            self._inbox.extend(requests)
            self._waiting += len(requests)
            self._changed.notify_all()

    def cancel(self, keys: Collection[int]) -> None:
        """Drop attempts; those that end before the engine's next step may still be delivered."""
        with self._changed:
            self._inbox.append(frozenset(keys))
            self._changed.notify_all()

    def wait_hungry(self, below: int, timeout: float) -> bool:
        """Wait until fewer than `below` rows wait for a slot; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting < below, timeout)

    @property
    def row_steps(self) -> int:
        """Tokens generated so far, over all rows."""
        return self._engine.row_steps

    @property
    def step_began(self) -> float | None:
        """When the step that runs now began (monotonic seconds); None between steps."""
        return self._step_began

    def stop(self, timeout: float) -> None:
        """End the thread after the step that runs, waiting for it at most `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.thread.join(timeout)
        gc.unfreeze()

    def _run(self) -> None:
        """Alternate between the inbox and the engine until stopped."""
        engine = self._engine
        while not self._stopping:
            self._take(block=not engine.has_work)
            if not engine.has_work:
                continue
            began = self._step_began = time.monotonic()
            finished = engine.step()
            self._step_began = None
            self._meter.step(time.monotonic() - began)
            if finished:
                self._deliver(finished)

    def _take(self, *, block: bool) -> None:
        """Move the inbox into the engine; wait for something to come if `block`."""
        with self._changed:
            self._waiting = self._engine.waiting + sum(isinstance(item, Request) for item in self._inbox)
            self._changed.notify_all()
            if block:
                self._changed.wait_for(lambda: self._inbox or self._stopping, _IDLE)
            items = list(self._inbox)
            self._inbox.clear()
        refused: list[Finished] = []
        for item in items:
            if isinstance(item, frozenset):
                self._engine.cancel(item)
                continue
            try:
                self._engine.add(item)
            except EndmarkError as error:
                said = ": ".join(filter(None, (str(error), error.hint)))
                refused.append(failed(item.key, said, len(item.prompt_token_ids)))
            except Exception as error:
                log.exception("the engine does not take a row")
                said = f"the engine does not take the row: {described(error)}"
                refused.append(failed(item.key, said, len(item.prompt_token_ids)))
        if refused:
            self._deliver(refused)


def failed(key: int, error: str, prompt_tokens: int = 0) -> Finished:
    """Return the attempt of a row that could not be run."""
    return Finished(
        key=key,
        token_ids=(),
        text="",
        verdict=Verdict(FinishReason.ERROR, error=error),
        prompt_tokens=prompt_tokens,
        completion_tokens=0,
        trace=EosTrace(),
    )
