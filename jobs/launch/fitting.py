"""Whether this machine has what a worker's options ask for: told before anything is started or loaded."""

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from endmark.jobs.engines import CPU_WEIGHTS, VLLM, check_device
from endmark.jobs.errors import UsageError
from endmark.jobs.launch.gpus import choose_gpus, grouped
from endmark.jobs.launch.workers import WorkerOptions

_CPU_INFO = Path("/proc/cpuinfo")
_PORTS = 65535


def check_fits(options: WorkerOptions, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a worker that this machine cannot run.

    What a card can compute is known when it has been opened: that is left to the worker's process.

    Raises:
        UsageError: GPUs, a type of numbers or an address are not there, or a port is taken.
    """
    groups = grouped(choose_gpus(options.gpus, environ), options.engine)
    if options.engine.name(options.weights) != VLLM:
        check_device(options.weights, options.kv_cache, on_gpu=groups is not None)
        if options.weights in CPU_WEIGHTS:
            _check_bf16(_CPU_INFO)
    if options.metrics_port is not None:
        _check_ports(options.metrics_host, options.metrics_port, len(groups or "1"))


def _check_bf16(info: Path) -> None:
    """Refuse bf16 on a CPU that says what it has, and has no products of it.

    Raises:
        UsageError: saying so.
    """
    try:
        text = info.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: torch tells
        return
    if "\nflags" in text and "avx512_bf16" not in text:
        raise UsageError(
            "this processor has no products of bf16 (AVX512-BF16 or AMX), so bf16 weights would make it slower",
            hint="leave `--weights` out: products are then in fp32",
        )


def _check_ports(host: str, first: int, count: int) -> None:
    """Refuse an address that is none of this machine's, and ports that are taken.

    Raises:
        UsageError: saying which.
    """
    if first + count - 1 > _PORTS:
        raise UsageError(
            f"`--metrics-port {first}`: there is no port for each of {count} processes, the last is {_PORTS}",
            hint="they count up from the first: give a lower one",
        )
    with ExitStack() as stack:
        for port in range(first, first + count):
            try:
                family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
                tried = stack.enter_context(socket.socket(family, kind))
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
                tried.bind(address)
            except (OSError, UnicodeError) as error:
                raise no_metrics(host, port, error) from error


def no_metrics(host: str, port: int, error: OSError | UnicodeError) -> UsageError:
    """Return the error for an address or a port that cannot be had."""
    taken = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
    ports = "give another `--metrics-port`; each GPU's process takes one, counting up from it"
    return UsageError(
        f"cannot serve metrics on {host}, port {port}: {getattr(error, 'strerror', None) or error}",
        hint=ports if taken else "name an address of this machine as `--metrics-host`",
    )
