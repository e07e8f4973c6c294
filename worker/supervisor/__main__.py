"""`python -m endmark.worker.supervisor LAUNCH`: supervise a worker process for each GPU or group of them."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from endmark.jobs.broker.access import Broker, ensure_broker
from endmark.jobs.errors import EndmarkError
from endmark.jobs.launch.gpus import choose_gpus, grouped
from endmark.jobs.launch.workers import Launch, WorkerOptions, worker_environment, write_failure
from endmark.jobs.settings import DEMO_MODEL, Settings
from endmark.jobs.spelling import counted
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.process.parent import when_parent_ends
from endmark.worker.supervisor.children import Supervisor, child_specs, drain_on_signals
from endmark.worker.supervisor.undertaker import Undertaker

_MARGIN = 30.0  # seconds a child may take beyond its grace to store what it has

log = logging.getLogger("worker")


def main(line: str) -> int:
    """Run the worker until it is drained or cannot go on; return the exit code."""
    launch = Launch.from_json(line)
    log_to_stderr("supervisor")
    try:
        settings = Settings.load()
        with ensure_broker(settings) as broker:
            return _supervise(launch, settings, broker)
    except EndmarkError as error:
        _say_failure(launch, str(error), error.hint)
        return error.exit_code


def _supervise(launch: Launch, settings: Settings, broker: Broker) -> int:
    """Start the children and keep them running."""
    options = launch.options
    chosen = choose_gpus(options.gpus)
    gpus = grouped(chosen, options.engine)
    where = _where(chosen, gpus)
    bundled = ", the bundled model" if options.model == DEMO_MODEL else ""
    log.info(
        "model %s%s on %s; broker %s", options.model, bundled, where, "our own" if broker.server else "as set"
    )
    device = "cpu" if gpus is None else "cuda"
    undertaker = Undertaker(settings.database_url, launch.report)

    def chore() -> None:
        undertaker.work()
        if broker.revive():
            log.warning("the broker had died and was started again")

    with TemporaryDirectory(prefix="endmark-lives-") as folder:
        launches = [
            Launch(_with_port(options, at), True, launch.report, Path(folder) / f"{at}.json", device)
            for at in range(len(gpus or "1"))
        ]
        specs = child_specs(launches, worker_environment(settings), gpus)
        supervisor = Supervisor(specs, grace=options.grace + _MARGIN, chore=chore, died=undertaker.take)
        drain_on_signals(supervisor)
        if launch.with_parent:
            when_parent_ends(supervisor.stop_now)
        failures = supervisor.run()
        undertaker.work()
    if not failures:
        return 0
    message = "; ".join(failures) if len(specs) > 1 else failures[0].removeprefix(f"{specs[0].name}: ")
    if undertaker.told and undertaker.count == 1:  # its one line in the log says it all
        _tell(launch, message, supervisor.hint)
    else:
        _say_failure(launch, message, supervisor.hint)
    return 1


def _where(gpus: list[str] | None, groups: list[str] | None) -> str:
    """Return where the model is to run, in words."""
    if gpus is None or groups is None:
        return "the CPU"
    if groups == gpus:
        return counted(len(gpus), "GPU")
    left = len(gpus) - sum(len(group.split(",")) for group in groups)
    unused = f"; {counted(left, 'GPU')} left over" if left else ""
    return f"{counted(len(groups), 'group')} of {counted(len(groups[0].split(',')), 'GPU')}{unused}"


def _with_port(options: WorkerOptions, index: int) -> WorkerOptions:
    """Return the options of a child: the port for its metrics counts up from the first."""
    first = options.metrics_port
    return options if first is None else replace(options, metrics_port=first + index)


def _say_failure(launch: Launch, message: str, hint: str | None) -> None:
    """Log why the worker gives up, and leave word for the process that started it."""
    log.error("%s%s", message, f" (hint: {hint})" if hint else "")
    _tell(launch, message, hint)


def _tell(launch: Launch, message: str, hint: str | None) -> None:
    """Leave word of why the worker gives up, for the process that started it."""
    if launch.report:
        write_failure(launch.report, message, hint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
