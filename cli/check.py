"""`endmark check`: what this machine can do, and what is in the way."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import chain
from typing import Any, Literal

import click
from sqlalchemy.engine import make_url

from endmark.cli.terminal import hint, note, one_line
from endmark.db.connection import open_store
from endmark.db.progress import all_statuses
from endmark.db.workers import list_workers
from endmark.jobs.broker.access import find_broker
from endmark.jobs.broker.address import mask, why_silent
from endmark.jobs.errors import BrokerError, EndmarkError
from endmark.jobs.launch.interpreter import module_command
from endmark.jobs.settings import Settings
from endmark.jobs.spelling import counted

_EXTRAS: Mapping[str, tuple[str, str]] = {
    "postgres": ("psycopg", "a Postgres database"),
    "parquet": ("pyarrow", "Parquet files"),
    "zstd": ("zstandard", "files compressed by Zstandard"),
    "remote": ("fsspec.implementations.http", "datasets and results in buckets, by URL"),
    "metrics": ("prometheus_client", "metrics for Prometheus"),
    "serve": ("starlette", "`endmark serve`"),
    "finetune": ("trl", "`endmark finetune`"),
    "vllm": ("vllm", "models that Endmark's own engine refuses, and models over several GPUs"),
}
_SIZES = (1, 3, 8, 14, 32, 70, 120)  # billions of parameters
_PACKED, _GPU_EXPANDED, _CPU_EXPANDED = 0.6, 2.1, 4.2  # bytes a parameter, embeddings in 16 bits included
_BESIDE = 3 << 30  # bytes for the cache, the work and the libraries
_GIB = 1 << 30
_LOW = 2 << 30  # bytes of room at home

Kind = Literal["ok", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    kind: Kind
    what: str
    said: str
    fix: str | None = None


@click.command(
    short_help="Tell what this machine can do, with fixes.",
    epilog="\b\nExamples:\n  endmark check\n  endmark check --json",
)
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON: a list of findings.")
def check(json_wanted: bool) -> int:
    """Look at the database, the broker, the libraries, the GPUs and the memory, and tell what is in the way.

    Exits with 1 if something must be fixed before a job can run here.
    """
    findings: list[Finding] = []
    with _worker_libraries() as child:
        for item in chain(_places(), _machine(child, quiet=json_wanted), _extras()):
            findings.append(item)
            if not json_wanted:
                _show(item)
    if json_wanted:
        click.echo(json.dumps([asdict(item) for item in findings], indent=1))
    bad = [item for item in findings if item.kind == "bad"]
    if not bad and not json_wanted:
        hint("`endmark run DATASET -o results.csv` runs a dataset, `endmark ask PROMPT` a single prompt")
    return 1 if bad else 0


def _show(item: Finding) -> None:
    """Print a finding, and its fix on a line of its own."""
    click.echo(f"{item.kind:<5} {item.what:<10} {one_line(item.said)}")
    if item.fix is not None:
        click.echo(f"{'':<17}→ {item.fix}")


@contextmanager
def _worker_libraries() -> "Iterator[subprocess.Popen[str]]":
    """Start the process that imports what a worker does; end it where nobody has waited for it."""
    words = module_command("endmark.worker.models.machine")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def _machine(child: "subprocess.Popen[str]", *, quiet: bool) -> Iterator[Finding]:
    """Look at what a worker process would find, as that process tells it."""
    if not quiet:
        note("importing what a worker does: some seconds")
    try:
        found = json.loads(child.communicate(timeout=300)[0].splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        yield Finding("bad", "libraries", "a process that imports them does not end in order", "reinstall Endmark")
        return
    versions = ", ".join(f"{name} {version}" for name, version in found["libraries"].items())
    if versions:
        yield Finding("ok", "libraries", versions)
    for name, error in found["broken"].items():
        yield Finding(
            "bad", "libraries", f"{name} cannot be imported: {error}", f"pip install --force-reinstall {name}"
        )
    for number, gpu in enumerate(found["gpus"]):
        yield _gpu(number, gpu)
    free, total = found["memory"]
    sizes = "" if found["gpus"] else f"; without a GPU models {_up_to(free, _CPU_EXPANDED)}, slowly"
    yield Finding(
        "ok", "processor", f"{counted(found['cores'], 'core')}, {_gib(free)} of {_gib(total)} free{sizes}"
    )
    if not found["gpus"]:
        yield Finding("note", "GPU", *_no_gpu(found))


def _gpu(number: int, gpu: dict[str, Any]) -> Finding:
    """Say what runs on a GPU."""
    major, minor = gpu["capability"]
    said = f"{number}: {gpu['name']}, {_gib(gpu['free'])} of {_gib(gpu['total'])} free"
    said += f"; models {_up_to(gpu['free'], _PACKED)}, at full speed {_up_to(gpu['free'], _GPU_EXPANDED)}"
    if major < 7:
        return Finding("bad", "GPU", said, f"it has compute capability {major}.{minor}, and 7.0 is needed")
    if major < 8:
        return Finding("note", "GPU", f"{said}; without bf16, so it computes in fp16")
    return Finding("ok", "GPU", said)


def _no_gpu(found: dict[str, Any]) -> tuple[str, str | None]:
    """Say why there is none, and what to do if there should be."""
    if found.get("cuda"):
        return "torch sees none", "if there is one: `nvidia-smi` says whether the driver works"
    return "this torch is built without CUDA", "if there is a GPU: install torch for it, see pytorch.org"


def _up_to(free: int, bytes_each: float) -> str:
    """Say which sizes fit into memory."""
    fitting = [size for size in _SIZES if size * 1e9 * bytes_each + _BESIDE <= free]
    return f"up to about {fitting[-1]}B" if fitting else "below 1B"


def _gib(size: float) -> str:
    """Return a size in GiB."""
    return f"{size / _GIB:.1f} GiB"


def _places() -> Iterator[Finding]:
    """Look at the home, the database and the broker."""
    try:
        settings = Settings.load()
    except EndmarkError as error:
        yield Finding("bad", "home", str(error), error.hint)
        return
    room = shutil.disk_usage(settings.home).free
    low = "results need room: free some, or set ENDMARK_HOME" if room < _LOW else None
    yield Finding("note" if low else "ok", "home", f"{settings.home}, {_gib(room)} free", low)
    try:
        with open_store(settings.database_url) as store:
            jobs, workers = all_statuses(store), list_workers(store)
        url = make_url(settings.database_url).render_as_string()
        yield Finding("ok", "database", f"{url}, {counted(len(jobs), 'job')}, {counted(len(workers), 'worker')}")
    except EndmarkError as error:
        yield Finding("bad", "database", str(error), error.hint)
    yield _broker(settings)


def _broker(settings: Settings) -> Finding:
    """Look at the broker."""
    if settings.broker_url is None:
        runs = find_broker(settings) is not None
        return Finding("ok", "broker", f"Endmark's own, {'running' if runs else 'started when it is needed'}")
    try:
        reason = why_silent(settings.broker_url, timeout=5.0)
    except BrokerError as error:
        return Finding("bad", "broker", str(error), error.hint)
    if reason is None:
        return Finding("ok", "broker", mask(settings.broker_url))
    fix = "start it, or unset ENDMARK_BROKER_URL and Endmark starts its own"
    return Finding("bad", "broker", f"{mask(settings.broker_url)} does not answer: {reason}", fix)


def _extras() -> Iterator[Finding]:
    """Name the extras that are not installed."""
    for extra, (module, what) in _EXTRAS.items():
        if find_spec(module) is None:
            yield Finding(
                "note", "extra", f"`{extra}` is not installed: {what}", f"pip install 'endmark[{extra}]'"
            )
