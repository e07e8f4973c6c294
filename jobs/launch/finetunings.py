"""A fine-tuning as a child process: its spec goes in, its progress comes out a JSON line at a time."""

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from endmark.jobs.errors import EndmarkError, MissingDependency, WorkerFailed
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec
from endmark.jobs.launch.interpreter import module_command
from endmark.jobs.launch.workers import worker_environment
from endmark.jobs.private import open_private, private_folder
from endmark.jobs.settings import Settings

_LOG_LINES = 12
_GRACE = 10.0  # seconds for the child to end


def check_extra() -> None:
    """Refuse to fine-tune without the libraries for it.

    Raises:
        MissingDependency: with the line that installs them.
    """
    if any(find_spec(name) is None for name in ("peft", "trl", "matplotlib")):
        raise MissingDependency("fine-tuning", "finetune")


def run_finetuning(
    settings: Settings, spec: FinetuneSpec, on_progress: Callable[[FinetuneProgress], None]
) -> None:
    """Run a fine-tuning to its end; whatever ends this call ends the child too.

    Raises:
        EndmarkError: what the child says, or that it has died.
    """
    folder = private_folder(settings.home / "logs")
    log_path = folder / f"finetune-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with open_private(log_path) as log:
        process = subprocess.Popen(
            module_command("endmark.worker.finetune"),
            stdin=subprocess.PIPE,  # the child ends when it is closed, by us or by our death
            stdout=subprocess.PIPE,
            stderr=log,
            env={"OMP_WAIT_POLICY": "PASSIVE", **worker_environment(settings)},
            start_new_session=True,  # Ctrl-C is ours, who then end it
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(spec.to_json().encode() + b"\n")
        process.stdin.flush()
        for line in process.stdout:
            values = json.loads(line)
            if "error" in values:
                raise _said(values)
            on_progress(FinetuneProgress.from_json(line.decode()))
        code = process.wait()
    finally:
        _end(process)
    if code:
        raise WorkerFailed(
            f"the training {_how(code)}; the last lines of its log:{_tail(log_path)}",
            hint=f"its log is `{log_path}`; called again, it goes on from its last checkpoint",
        )


def _said(values: dict[str, str]) -> EndmarkError:
    """Return the child's error as ours."""
    error = EndmarkError(values["error"], hint=values["hint"])
    error.exit_code = int(values["code"])
    return error


def _how(code: int) -> str:
    """Say how a process ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _tail(path: Path) -> str:
    """Return the end of a log, indented."""
    with path.open(errors="replace") as log:
        return "".join(f"\n  {line.rstrip()}" for line in deque(log, maxlen=_LOG_LINES)) or " none"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child if it still runs."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    process.stdout.close()
    process.stdin.close()
