"""`endmark worker`: this process becomes the supervisor of the worker processes."""

import math
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import click

from endmark.cli.beforehand import check_folders
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.options import adapter_folder, model_name, model_options
from endmark.jobs.engines import OWN_WEIGHTS, VLLM_WEIGHTS
from endmark.jobs.errors import MissingDependency, UsageError
from endmark.jobs.launch.fitting import check_fits
from endmark.jobs.launch.workers import Launch, WorkerOptions, worker_environment
from endmark.jobs.settings import Settings

_DEFAULT = WorkerOptions(model="")


def _at_least(least: float) -> Callable[[click.Context, click.Parameter, float], float]:
    """Return what refuses fewer seconds, and such as are no number."""

    def check(_: click.Context, option: click.Parameter, seconds: float) -> float:
        if not least <= seconds < math.inf:
            raise UsageError(f"`--{option.name} {seconds:g}`: must be a number of seconds, at least {least:g}")
        return seconds

    return check


@click.command(
    short_help="Run the jobs of one model, a process for each GPU.",
    epilog="""\b
Examples:
  endmark worker
  endmark worker --model meta-llama/Llama-2-7b-chat-hf --gpus 0,1
  endmark worker --model ./my-model --adapter ./my-adapter --weights packed
  endmark worker --model Qwen/Qwen3.5-27B --engine vllm --tensor-parallel 2""",
)
@model_options
@engine_options
@click.option(
    "--gpus",
    metavar="all|0,1|cpu",
    default=_DEFAULT.gpus,
    show_default=True,
    help="One process for each, or for each group that holds one model.",
)
@click.option(
    "--weights",
    type=click.Choice([*OWN_WEIGHTS, *VLLM_WEIGHTS[1:]]),
    default=_DEFAULT.weights,
    show_default=True,
    help="Keep the 4-bit weights packed, expand them to 16 bits, or as many as fit; or multiply in fp8, which is "
    "faster and changes answers a little: from the 4-bit weights, or from the model's own files; bf16 is the same "
    "for a CPU that multiplies it. Under vLLM: quantise to NF4, take what the checkpoint has, or 16 bits.",
)
@click.option(
    "--kv-cache",
    type=click.Choice(["auto", "fp8"]),
    default=_DEFAULT.kv_cache,
    show_default=True,
    help="Type of the KV cache: the model's, or fp8, which is faster and changes answers a little.",
)
@click.option(
    "--grace",
    type=float,
    callback=_at_least(0),
    default=_DEFAULT.grace,
    show_default=True,
    help="Seconds that running rows get to end.",
)
@click.option(
    "--stall",
    type=float,
    callback=_at_least(1),
    default=_DEFAULT.stall,
    show_default=True,
    help="Seconds without progress after which a process is restarted.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Answer Prometheus on this port; the processes of further GPUs on the next ones.",
)
@click.option(
    "--metrics-host",
    metavar="ADDRESS",
    default=_DEFAULT.metrics_host,
    show_default=True,
    help="Address on which it does; 0.0.0.0 for a Prometheus on another host.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
def worker(model: str | None, adapter: str | None, **options: Any) -> None:  # noqa: ANN401
    """Load a model in 4 bits and run the jobs that want it, until SIGTERM or Ctrl-C.

    These end it in order: the rows that run are finished or given back. The broker is started if none runs.
    """
    model = model_name(model)
    if options["metrics_port"] is not None and find_spec("prometheus_client") is None:
        raise MissingDependency("`--metrics-port`", "metrics")
    if options["metrics_port"] is None and options["metrics_host"] != _DEFAULT.metrics_host:
        raise UsageError("`--metrics-host` says where, and there are no metrics", hint="add `--metrics-port`")
    engine = take_engine(options)
    worker_options = WorkerOptions(model, adapter_folder(adapter, model), engine=engine, **options)
    check_folders(worker_options.model, worker_options.adapter)
    check_fits(worker_options)
    command = Launch(worker_options).command()
    environment = worker_environment(Settings.load())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # so that signals reach the supervisor itself  # noqa: S606
