"""`python -m endmark.worker`: supervise one worker process for each GPU, or one on the CPU."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from endmark.jobs.broker.access import Broker, ensure_broker
from endmark.jobs.errors import EndmarkError
from endmark.jobs.launch.workers import worker_command, worker_environment, write_failure
from endmark.jobs.settings import DEMO_MODEL, Settings
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.process.options import Arguments, parse
from endmark.worker.process.parent import when_parent_ends
from endmark.worker.supervisor.children import ChildSpec, Supervisor, child_specs, drain_on_signals
from endmark.worker.supervisor.gpus import choose_gpus
from endmark.worker.supervisor.undertaker import Undertaker

_MARGIN = 30.0  # seconds a child may take beyond its grace to store what it has

log = logging.getLogger("worker")


def main(words: Sequence[str]) -> int:
    """Run the worker until it is drained or cannot go on; return the exit code."""
    arguments = parse(words)
    log_to_stderr("supervisor")
    try:
        settings = Settings.load()
        with ensure_broker(settings) as broker:
            return _supervise(arguments, settings, broker)
    except EndmarkError as error:
        _say_failure(arguments, str(error), error.hint)
        return error.exit_code


def _supervise(arguments: Arguments, settings: Settings, broker: Broker) -> int:
    """Start the children and keep them running."""
    options = arguments.options
    gpus = choose_gpus(options.gpus)
    where = "the CPU" if gpus is None else f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"
    bundled = ", the bundled model" if options.model == DEMO_MODEL else ""
    log.info(
        "model %s%s on %s; broker %s", options.model, bundled, where, "our own" if broker.server else "as set"
    )
    device = "cpu" if gpus is None else "cuda"
    command = worker_command(options, "--with-parent", "--device", device, module="endmark.worker.service.app")
    specs = _with_ports(child_specs(command, worker_environment(settings), gpus), options.metrics_port)
    undertaker = Undertaker(settings.database_url, arguments.report)

    def chore() -> None:
        undertaker.work()
        if broker.revive():
            log.warning("the broker had died and was started again")

    with TemporaryDirectory(prefix="endmark-lives-") as folder:
        supervisor = Supervisor(
            _with_lives(specs, Path(folder)), grace=options.grace + _MARGIN, chore=chore, died=undertaker.take
        )
        drain_on_signals(supervisor)
        if arguments.with_parent:
            when_parent_ends(supervisor.stop_now)
        failures = supervisor.run()
        undertaker.work()
    if not failures:
        return 0
    message = "; ".join(failures) if len(specs) > 1 else failures[0].removeprefix(f"{specs[0].name}: ")
    if undertaker.told and undertaker.count == 1:  # its one line in the log says it all
        _tell(arguments, message, supervisor.hint)
    else:
        _say_failure(arguments, message, supervisor.hint)
    return 1


def _with_lives(specs: Sequence[ChildSpec], folder: Path) -> Sequence[ChildSpec]:
    """Give each child a file in which it describes itself."""
    files = [folder / f"{index}.json" for index in range(len(specs))]
    return [
        replace(spec, command=[*spec.command, "--life", str(file)], life=file)
        for spec, file in zip(specs, files, strict=True)
    ]


def _with_ports(specs: Sequence[ChildSpec], first: int | None) -> Sequence[ChildSpec]:
    """Give each child a port for its metrics, counting up from the first."""
    if first is None:
        return specs
    ports = map(str, range(first, first + len(specs)))
    return [
        replace(spec, command=[*spec.command, "--metrics-port", port])
        for spec, port in zip(specs, ports, strict=True)
    ]


def _say_failure(arguments: Arguments, message: str, hint: str | None) -> None:
    """Log why the worker gives up, and leave word for the process that started it."""
    log.error("%s%s", message, f" (hint: {hint})" if hint else "")
    _tell(arguments, message, hint)


def _tell(arguments: Arguments, message: str, hint: str | None) -> None:
    """Leave word of why the worker gives up, for the process that started it."""
    if arguments.report:
        write_failure(arguments.report, message, hint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
