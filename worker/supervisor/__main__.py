"""`python -m endmark.worker`: supervise one worker process for each GPU, or one on the CPU."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace

from endmark.jobs.broker.access import Broker, ensure_broker
from endmark.jobs.errors import EndmarkError
from endmark.jobs.launch.workers import read_failure, worker_command, worker_environment, write_failure
from endmark.jobs.settings import DEMO_MODEL, Settings
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.process.options import Arguments, parse
from endmark.worker.process.parent import when_parent_ends
from endmark.worker.supervisor.children import ChildSpec, RestartPolicy, Supervisor, child_specs, drain_on_signals
from endmark.worker.supervisor.gpus import choose_gpus

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
    report = ["--report", str(arguments.report)] if arguments.report else []
    device = "cpu" if gpus is None else "cuda"
    command = worker_command(
        options, "--with-parent", "--device", device, *report, module="endmark.worker.service.app"
    )
    environment = worker_environment(settings)

    def revive() -> None:
        if broker.revive():
            log.warning("the broker had died and was started again")

    specs = _with_ports(child_specs(command, environment, gpus), options.metrics_port)
    # A row that kills its worker comes back when its lease has run out: its deaths are never quick ones.
    policy = RestartPolicy(quick=options.lease * 2 / 3)
    supervisor = Supervisor(specs, policy=policy, grace=options.grace + _MARGIN, chore=revive)
    drain_on_signals(supervisor)
    if arguments.with_parent:
        when_parent_ends(supervisor.stop_now)
    failures = supervisor.run()
    if not failures:
        return 0
    said = read_failure(arguments.report) if arguments.report else None
    if said is None:
        _say_failure(arguments, "; ".join(failures), "the log above says what happened before")
    return 1


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
    if arguments.report:
        write_failure(arguments.report, message, hint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
