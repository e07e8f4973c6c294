"""The command line of the supervisor and of the worker processes that it starts."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from endmark.jobs.launch.workers import WorkerOptions
from endmark.jobs.settings import DEMO_MODEL

_DEFAULT = WorkerOptions(DEMO_MODEL)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a worker was asked to do, and how it is tied to the process that started it."""

    options: WorkerOptions
    with_parent: bool  # end when standard input is closed
    report: Path | None  # where a supervisor leaves word of a failure
    life: Path | None  # where a worker process describes itself to its supervisor
    device: str  # `cpu` or `cuda`, as the supervisor chose


def parse(words: Sequence[str]) -> Arguments:
    """Read the command line; exits with code 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="endmark worker", description="Run jobs of one model.")
    parser.add_argument(
        "--model", default=_DEFAULT.model, help="a hub id or a folder (default: the bundled model)"
    )
    parser.add_argument("--adapter", help="a folder with an adapter for the model")
    parser.add_argument("--gpus", default=_DEFAULT.gpus, help="`all`, `cpu`, or numbers joined by commas")
    parser.add_argument("--kv-cache", default=_DEFAULT.kv_cache, choices=("auto", "fp8"))
    parser.add_argument("--weights", default=_DEFAULT.weights, choices=("auto", "packed", "expanded"))
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    parser.add_argument(
        "--grace", type=float, default=_DEFAULT.grace, help="seconds that a drain gives running rows"
    )
    parser.add_argument(
        "--stall", type=float, default=_DEFAULT.stall, help="seconds that one step of the engine may take"
    )
    parser.add_argument("--metrics-port", type=int, help="answer Prometheus there; each further GPU on the next")
    parser.add_argument("--metrics-host", default=_DEFAULT.metrics_host, help="address that Prometheus asks")
    parser.add_argument("--lease", type=float, default=_DEFAULT.lease, help=argparse.SUPPRESS)
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--life", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help=argparse.SUPPRESS)
    values = parser.parse_args(words)
    options = WorkerOptions(
        model=values.model,
        adapter=values.adapter,
        gpus=values.gpus,
        weights=values.weights,
        kv_cache=values.kv_cache,
        trust_remote_code=values.trust_remote_code,
        grace=values.grace,
        stall=values.stall,
        lease=values.lease,
        metrics_port=values.metrics_port,
        metrics_host=values.metrics_host,
    )
    return Arguments(
        options, with_parent=values.with_parent, report=values.report, life=values.life, device=values.device
    )
