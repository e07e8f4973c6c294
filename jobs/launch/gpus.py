"""Which GPUs a worker may use, found without loading CUDA."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from endmark.jobs.engines import RAY, EngineChoice
from endmark.jobs.errors import UsageError


def choose_gpus(wanted: str, environ: Mapping[str, str] = os.environ) -> list[str] | None:
    """Return the CUDA_VISIBLE_DEVICES of each process to start; None for one process on the CPU.

    Args:
        wanted: `all` (the CPU where there is no GPU), `cpu`, or numbers joined by commas, which count among the
            GPUs that CUDA_VISIBLE_DEVICES leaves where it is set.

    Raises:
        UsageError: a number that names no GPU.
    """
    if wanted == "cpu":
        return None
    visible = visible_gpus(environ)
    if wanted == "all":
        return visible or None
    chosen = []
    for word in wanted.split(","):
        if not word.strip().isdecimal() or int(word) >= len(visible):
            raise UsageError(
                f"`--gpus {wanted}`: there is no GPU `{word.strip()}`",
                hint=f"there are {len(visible)}; use `all`, `cpu` or numbers from 0 joined by commas",
            )
        chosen.append(visible[int(word)])
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"`--gpus {wanted}` names a GPU twice")
    return chosen


def grouped(gpus: list[str] | None, engine: EngineChoice) -> list[str] | None:
    """Return the CUDA_VISIBLE_DEVICES of each process: one for each group of GPUs that hold the model together.

    Raises:
        UsageError: there are fewer than one group needs.
    """
    if engine.gpus == 1:
        return gpus
    count = len(gpus or ())
    if engine.executor == RAY and gpus:
        return [",".join(gpus)]  # and those of other hosts, which Ray gives out
    if count < engine.gpus:
        raise UsageError(
            f"`{' '.join(engine.words())}` needs {engine.gpus} GPUs for one model, and there "
            + ("is 1" if count == 1 else f"are {count or 'none'}"),
            hint="ask for fewer, or for weights of fewer bits; `--executor ray` takes those of several hosts",
        )
    assert gpus is not None
    return [",".join(gpus[at : at + engine.gpus]) for at in range(0, count - engine.gpus + 1, engine.gpus)]


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs of this machine as CUDA_VISIBLE_DEVICES names them."""
    allowed = environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        # CUDA itself ignores everything from the first entry on that names no device.
        names = [name.strip() for name in allowed.split(",")]
        end = next((index for index, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))
        return names[:end]
    return [str(index) for index in range(_count())]


def _count() -> int:
    """Return how many NVIDIA GPUs the driver shows."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        folder = Path("/proc/driver/nvidia/gpus")
        return len(list(folder.iterdir())) if folder.is_dir() else 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
