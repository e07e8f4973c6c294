"""One child process for each GPU or group of them: pinned, restarted when it dies, drained when this one must end.

It never loads torch, so that CUDA_VISIBLE_DEVICES is set before the child's Python starts, and so that nothing
that happens in a GPU process can harm it.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from endmark.jobs.errors import EndmarkError
from endmark.jobs.launch.lives import EXIT_CANNOT_START, Life, Stage, read_life
from endmark.jobs.launch.workers import Launch

_TICK = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child to keep running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    life: Path | None = None  # where it describes itself


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to start a child again, in seconds."""

    first_wait: float = 1.0  # doubled with each quick death in a row
    longest_wait: float = 30.0
    quick: float = 60.0  # a child that lived for less, and finished no row, died quickly
    most_quick: int = 5  # quick deaths in a row after which it is given up


@dataclass(frozen=True, slots=True)
class Death:
    """A child that has ended, but not in order."""

    name: str  # the child's
    pid: int
    how: str  # that it was killed or ended with a code, and the reason it gave
    told: bool  # whether it has said in the log why
    last: bool  # whether it is not started again


class Child:
    """One child process and its restarts."""

    def __init__(self, spec: ChildSpec, policy: RestartPolicy, died: Callable[[Death], None]) -> None:
        self.spec = spec
        self.over: str | None = None  # why it runs no more
        self.failed = False
        self.hint: str | None = None  # how to fix what it failed of
        self._policy = policy
        self._died = died
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._quick_deaths = 0
        self._proven = False  # whether it has ever finished a row

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def look(self, *, draining: bool) -> None:
        """Notice its death, and start it when it is time to."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            self._bury(self._process, now)
        if self._process is None and self.over is None:
            if draining:
                self.over = "drained"
            elif now >= self._start_at:
                self._start(now)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _start(self, now: float) -> None:
        """Start the process."""
        if self.spec.life is not None:
            self.spec.life.unlink(missing_ok=True)
        self._started = now
        self._process = subprocess.Popen(
            list(self.spec.command),
            env=dict(self.spec.environment),
            stdin=subprocess.PIPE,  # closed by our death, which ends the child
            start_new_session=True,  # signals reach it through us
        )
        log.info("%s: started as process %d", self.spec.name, self._process.pid)

    def _bury(self, process: subprocess.Popen[bytes], now: float) -> None:
        """Decide what follows the death of the process."""
        assert process.stdin is not None
        process.stdin.close()
        self._process = None
        _end_group(process.pid)
        code = process.returncode
        lived = now - self._started
        if code == 0:
            self.over = "ended"
            return
        life = read_life(self.spec.life) if self.spec.life is not None else None
        said = life.reason if life is not None else None
        self.hint = life.hint if life is not None else None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        how += _when(life)
        why = f": {said}" if said else ""
        self._proven = self._proven or (life is not None and life.stage is Stage.PROVEN)
        self._quick_deaths = self._quick_deaths + 1 if self._was_quick(life, lived) else 0
        if code == EXIT_CANNOT_START and not self._proven:
            self.over = said or "it cannot start"
        elif self._quick_deaths > self._policy.most_quick:
            self.over = f"it {how}, for the {self._quick_deaths}th time in a row{why}"
        else:
            doubled = self._policy.first_wait * 2 ** max(0, self._quick_deaths - 1)
            wait = min(doubled, self._policy.longest_wait)
            self._start_at = now + wait
            log.warning(
                "%s: %s after %.0f s%s; starting it again in %.0f s", self.spec.name, how, lived, why, wait
            )
        self.failed = self.over is not None
        self._died(Death(self.spec.name, process.pid, how + why, told=said is not None, last=self.failed))

    def _was_quick(self, life: Life | None, lived: float) -> bool:
        """Whether a death counts towards giving the child up: one before its first finished row does."""
        if life is None or life.stage is Stage.IDLE:
            return lived < self._policy.quick
        return life.stage is not Stage.PROVEN


def _end_group(leader: int) -> None:
    """Kill what a dead process has left behind: an engine's own processes would keep the memory of their GPUs."""
    with suppress(ProcessLookupError):  # as a rule there is nothing
        os.killpg(leader, signal.SIGKILL)


def _when(life: Life | None) -> str:
    """Return when in its life a process died, where that says something."""
    if life is None or life.stage in (Stage.IDLE, Stage.PROVEN):
        return ""
    return " while it loaded the model" if life.stage is Stage.LOADING else " before it had finished a row"


class Supervisor:
    """Keeps children running until each is over, or until it is told to drain.

    Args:
        specs: the children.
        policy: when to start one again.
        grace: seconds after which a draining child is killed.
        chore: something to do every few seconds, such as reviving the broker.
        died: told of each child that has ended, but not in order.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        policy: RestartPolicy | None = None,
        grace: float = 60.0,
        chore: Callable[[], None] = lambda: None,
        chore_interval: float = 2.0,
        died: Callable[[Death], None] = lambda _: None,
    ) -> None:
        self._children = [Child(spec, policy or RestartPolicy(), died) for spec in specs]
        self._grace = grace
        self._chore = chore
        self._chore_interval = chore_interval
        self._wake = threading.Event()
        self._asked = 0  # how often it was told to drain

    @property
    def hint(self) -> str | None:
        """How to fix what the first of the failed children failed of, if it has said so."""
        return next((child.hint for child in self._children if child.failed), None)

    def drain(self) -> None:
        """Tell the children to drain; told again, they stop at once. Safe in a signal handler."""
        self._asked += 1
        self._wake.set()

    def stop_now(self) -> None:
        """Tell the children to stop without a drain."""
        self.drain()
        self.drain()

    def run(self) -> list[str]:
        """Run until no child is left; return why each that failed did."""
        passed_on = 0
        kill_at: float | None = None
        chore_at = 0.0
        while True:
            for child in self._children:
                child.look(draining=self._asked > 0)
            if all(child.over is not None for child in self._children):
                return [f"{child.spec.name}: {child.over}" for child in self._children if child.failed]
            now = time.monotonic()
            while passed_on < self._asked:
                passed_on += 1
                kill_at = kill_at or now + self._grace
                for child in self._children:
                    child.signal(signal.SIGTERM)
            if kill_at is not None and now > kill_at:
                for child in self._children:
                    child.signal(signal.SIGKILL)
            if now >= chore_at:
                self._do_chore()
                chore_at = now + self._chore_interval
            self._wake.wait(_TICK)
            self._wake.clear()

    def _do_chore(self) -> None:
        """Do the chore; one that fails is tried again."""
        try:
            self._chore()
        except EndmarkError as error:
            log.error("%s", error)


def child_specs(
    launches: Sequence[Launch], environment: Mapping[str, str], gpus: Sequence[str] | None
) -> list[ChildSpec]:
    """Return a child for each launch: each sees its GPU or its group of them; without GPUs it sees none."""
    if gpus is None:
        # Threads that spin at torch's barriers starve each other on a busy machine: a quarter of the speed.
        seen = {"cpu": {"OMP_WAIT_POLICY": "PASSIVE", **environment, "CUDA_VISIBLE_DEVICES": ""}}
    else:
        names = {gpu: f"gpus {gpu}" if "," in gpu else f"gpu {gpu}" for gpu in gpus}
        seen = {name: {**environment, "CUDA_VISIBLE_DEVICES": gpu} for gpu, name in names.items()}
    return [
        ChildSpec(name, launch.command("endmark.worker.service.app"), sees, launch.life)
        for launch, (name, sees) in zip(launches, seen.items(), strict=True)
    ]


def drain_on_signals(supervisor: Supervisor) -> None:
    """Let SIGTERM and SIGINT drain the supervisor instead of ending this process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.drain())
    if hasattr(signal, "SIGHUP") and os.isatty(0):
        signal.signal(signal.SIGHUP, lambda *_: supervisor.drain())  # the terminal was closed
