"""Worker processes as others start them: the command line, and a child that dies with its parent."""

import json
import os
import subprocess
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import endmark
from endmark.jobs.engines import ANY_ENGINE, EngineChoice
from endmark.jobs.launch.interpreter import module_command
from endmark.jobs.launch.lives import read_whole, write_whole
from endmark.jobs.private import open_private, private_folder
from endmark.jobs.settings import Settings

_ROOT = Path(endmark.__file__).resolve().parent.parent  # the folder that holds the package `endmark`

_LOGS_KEPT = 20
_AT_ONCE = 10.0  # seconds for a worker to kill its processes


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is to hold and where it is to run."""

    model: str
    adapter: str | None = None
    gpus: str = "all"  # `all`, `cpu`, or numbers joined by commas
    weights: str = "auto"  # as the engine has them; see `jobs.engines`
    kv_cache: str = "auto"  # `auto` or `fp8`
    trust_remote_code: bool = False
    grace: float = 30.0  # seconds that a drain gives the rows that run
    stall: float = 300.0  # seconds that one step of the engine may take
    metrics_port: int | None = None  # of the first process; each further one takes the next
    metrics_host: str = "127.0.0.1"  # the address that it listens on
    lease: float = 90.0  # seconds after which what a dead worker held is taken up again
    engine: EngineChoice = ANY_ENGINE


@dataclass(frozen=True, slots=True)
class Launch:
    """What a worker process is told by the one that starts it: a JSON line, the only word of its command line."""

    options: WorkerOptions
    with_parent: bool = False  # whether it ends when its standard input is closed
    report: Path | None = None  # where a supervisor leaves word of a failure, and beside it how it serves
    life: Path | None = None  # where a worker process describes itself to its supervisor
    device: str = "cpu"  # `cpu` or `cuda`, as the supervisor chose

    def to_json(self) -> str:
        """Return it as one line, to be read by `from_json` of the same version."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str) -> "Launch":
        """Read what `to_json` wrote."""
        values = json.loads(line)
        told = values.pop("options")
        options = WorkerOptions(**{**told, "engine": EngineChoice(**told["engine"])})
        paths = {name: Path(values.pop(name)) for name in ("report", "life") if values.get(name) is not None}
        return cls(options, **{**values, **paths})

    def command(self, module: str = "endmark.worker.supervisor") -> list[str]:
        """Return the command that runs a module so, under `worker_environment`."""
        return module_command(module, self.to_json())


def worker_environment(settings: Settings) -> dict[str, str]:
    """Return the environment that `Launch.command` needs."""
    environment = {**os.environ, **settings.environment(), "PYTHONUNBUFFERED": "1"}
    environment["PYTHONSAFEPATH"] = "1"  # for interpreters that libraries start: as `-P` does for ours
    if "site-packages" not in _ROOT.parts:  # a source tree that may not be installed
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *([path] if path else [])])
    return environment


def start_worker(settings: Settings, options: WorkerOptions) -> "WorkerProcess":
    """Start a worker that logs to a file under the home folder and ends when this process does."""
    folder = private_folder(settings.home / "logs")
    for old in sorted(folder.glob("worker-*"))[:-_LOGS_KEPT]:
        old.unlink(missing_ok=True)
    name = f"worker-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    log_path, report_path = folder / f"{name}.log", folder / f"{name}.failure"
    with open_private(log_path) as log:
        process = subprocess.Popen(
            Launch(options, with_parent=True, report=report_path).command(),
            stdin=subprocess.PIPE,  # the worker ends when this end of the pipe is closed, by us or by our death
            stdout=log,
            stderr=log,
            env=worker_environment(settings),
            start_new_session=True,  # Ctrl-C is the parent's, which then stops the worker in order
        )
    return WorkerProcess(process, log_path, report_path, options.grace)


@dataclass(slots=True)
class WorkerProcess:
    """A worker started by this process."""

    process: subprocess.Popen[bytes]
    log_path: Path
    report_path: Path = field(repr=False)
    grace: float = 30.0  # seconds that rows which run get to end

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def tail(self, lines: int = 20) -> str:
        """Return the end of its log."""
        with self.log_path.open(errors="replace") as log:
            return "".join(deque(log, maxlen=lines))

    def failure(self) -> tuple[str, str | None] | None:
        """Return why it gave up and the hint how to fix it, or None if it has not said so."""
        return read_failure(self.report_path)

    def deaths(self) -> tuple[int, str]:
        """Return how often its processes have died so far, and how the last one did; 0 and nothing if none has."""
        values = read_whole(_deaths_path(self.report_path))
        return (0, "") if values is None else (int(values["count"] or 0), values["last"] or "")

    def words(self) -> list[str]:
        """Return what its user is to know of how it serves, in the order in which it was said."""
        return _words(self.report_path)

    def stop(self, grace: float = 60.0) -> int:
        """End it: let it drain for `grace` seconds, or until Ctrl-C, then end it at once. Return its exit code."""
        assert self.process.stdin is not None
        try:
            if self.process.poll() is None:
                self.process.terminate()
            self.process.wait(grace)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            self.process.stdin.close()  # as if this process had died: its children are ended with it
        try:
            code = self.process.wait(_AT_ONCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        for path in (self.report_path, _deaths_path(self.report_path), _word_path(self.report_path)):
            path.unlink(missing_ok=True)
        return code


def write_failure(path: Path, message: str, hint: str | None) -> None:
    """Leave word of why a worker gave up, for the process that started it."""
    write_whole(path, {"message": message, "hint": hint})


def read_failure(path: Path) -> tuple[str, str | None] | None:
    """Return what `write_failure` wrote, or None."""
    values = read_whole(path)
    return None if values is None else (values["message"] or "", values["hint"])


def write_word(report: Path, word: str) -> None:
    """Leave a further word of how a worker serves, for the process that started it; each once, on one line."""
    words, word = _words(report), " ".join(word.split())
    if word not in words:
        write_whole(_word_path(report), {"words": "\n".join([*words, word])})


def _words(report: Path) -> list[str]:
    """Return the words that were left beside a report, none where there are none."""
    values = read_whole(_word_path(report))
    return (values["words"] or "").split("\n") if values is not None else []


def _word_path(report: Path) -> Path:
    """Return where a worker that reports its failure to this file says how it serves."""
    return report.with_suffix(".word")


def write_deaths(report: Path, count: int, last: str) -> None:
    """Leave word of how often a worker's processes have died so far, and how the last one did."""
    write_whole(_deaths_path(report), {"count": str(count), "last": last})


def _deaths_path(report: Path) -> Path:
    """Return where the deaths are told of a worker that reports its failure to this file."""
    return report.with_suffix(".deaths")
