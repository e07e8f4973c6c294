"""How a worker process ends when it does not end in order: with a reason, told in one line."""

import logging
import os
import threading

from endmark.jobs.errors import BrokerError, EndmarkError, SchemaError, StoreError
from endmark.jobs.launch.lives import EXIT_CANNOT_START, LifeFile, Stage
from endmark.worker.process.guarded import Broken
from endmark.worker.process.traces import described, write_trace

EXIT_STALLED = 70
EXIT_BROKE = 71  # one of its threads
EXIT_SERVER_AWAY = 75

log = logging.getLogger("worker")


def give_up(error: Exception, model: str, life: LifeFile) -> int:
    """Say in one line why this process cannot start or go on; return the exit code.

    What nobody has foreseen is told as what was: its trace goes into a file of its own, which the line names.
    """
    loading = life.stage is Stage.LOADING
    if isinstance(error, EndmarkError):
        reason, hint = str(error), error.hint
    else:
        doing = "loading it" if loading else "the worker"
        reason = f"model `{model}`: {doing} failed with {described(error)}"
        hint = f"the trace is in `{write_trace(error)}`; if the model's files are whole, report it as a bug"
    log.error("cannot %s: %s%s", "start" if loading else "go on", reason, f" (hint: {hint})" if hint else "")
    life.end(reason, hint)
    if isinstance(error, BrokerError | StoreError) and not isinstance(error, SchemaError):
        return EXIT_SERVER_AWAY
    return EXIT_CANNOT_START if loading or isinstance(error, EndmarkError) else EXIT_BROKE


def break_off(life: LifeFile, reason: str, *, stalled: bool) -> None:
    """End this process, whose engine or another of its threads is of no use any more."""
    log.critical("ending this process: %s", reason)
    life.end(reason)
    logging.shutdown()
    os._exit(EXIT_STALLED if stalled else EXIT_BROKE)


def hear_all_threads(broken: Broken) -> None:
    """Tell `broken` of any thread that dies, a library's too: without it, rows may wait for ever."""

    def hear(about: threading.ExceptHookArgs) -> None:
        error = about.exc_value or about.exc_type()
        name = about.thread.name if about.thread is not None else "unnamed thread"
        log.critical("the thread `%s` broke", name, exc_info=error)
        broken(name, error)

    threading.excepthook = hear
