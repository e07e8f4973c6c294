"""What this machine has for a model, as one JSON line: `python -m endmark.worker.models.machine`."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

# The libraries, each with what imports it as a worker does: bitsandbytes alone would load torch's compiler, which
# takes as long as all the rest.
_NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "bitsandbytes": "endmark.worker.engine.four_bits",
    "accelerate": "accelerate",
}


def main() -> int:
    """Print what is found; return the exit code."""
    found: dict[str, Any] = {"libraries": {}, "broken": {}, "gpus": []}
    for name, module in _NEEDED.items():
        try:
            importlib.import_module(module)
            found["libraries"][name] = str(importlib.import_module(name).__version__)
        except Exception as error:  # whatever a library raises on this machine is what is to be told
            found["broken"][name] = f"{type(error).__name__}: {error}"
    found["memory"] = _memory()
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "torch" in found["libraries"]:
        found |= _cuda()
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _memory() -> tuple[int, int]:
    """Return the bytes that programs may take, and those of the machine."""
    page = os.sysconf("SC_PAGE_SIZE")
    free, total = page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return free, total
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return (available[0] if available else free), total


def _cuda() -> dict[str, Any]:
    """Return torch's CUDA and the GPUs that it sees."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = [properties.major, properties.minor]
        gpus.append({"name": properties.name, "capability": capability, "free": free, "total": total})
    return {"cuda": torch.version.cuda, "gpus": gpus}


if __name__ == "__main__":
    sys.exit(main())
