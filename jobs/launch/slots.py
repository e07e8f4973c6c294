"""The right to start a worker on this host's devices: one process at a time has it, and loses it by its end."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from endmark.jobs.launch.locks import try_lock
from endmark.jobs.private import open_private, private_folder

Queue = tuple[str, str | None]  # a model and its adapter
_DEVICES = Path("/dev")


@dataclass(slots=True)
class Slot:
    """The right, held until it is closed."""

    file: IO[bytes]

    def close(self) -> None:
        """Let others start a worker."""
        self.file.close()


def take_slot(home: Path, queue: Queue, environ: Mapping[str, str] = os.environ) -> Slot | Queue:
    """Return the right to start a worker of a model, or what the process that has it runs.

    Two workers do not fit on one GPU, whatever their models: each takes most of its memory. On a CPU they do, but
    two of one model would load it twice.

    Args:
        home: Endmark's folder; processes of other homes know nothing of this one's.
    """
    path = private_folder(home / "locks") / f"worker-{_place(queue, environ)}.lock"
    file = open_private(path, "a+b")
    if not try_lock(file):
        file.seek(0)
        said = file.read()
        file.close()
        model, adapter = json.loads(said) if said else queue
        return model, adapter
    file.truncate(0)
    file.write(json.dumps(queue).encode())
    file.flush()
    return Slot(file)


def _place(queue: Queue, environ: Mapping[str, str]) -> str:
    """Return a name for what two workers must not share: the GPUs that this process may use, or a model."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    has_gpus = any(_DEVICES.glob("nvidia[0-9]*")) if visible is None else visible.strip() not in ("", "-1")
    what = ["gpus", visible] if has_gpus else ["cpu", *queue]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
