"""The import package: its rooms are links to the folders beside it; a wheel holds them inside.

From Python there are `endmark.run(rows, strategy="soft-landing")`, `endmark.submit`, `endmark.Job`,
`endmark.list_jobs`, and the engine alone, `endmark.Engine`. Each is imported when it is first used, so that
`import endmark` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endmark.client.engine import Engine
    from endmark.client.job import Job
    from endmark.client.running import list_jobs, run, submit
    from endmark.jobs.errors import EndmarkError
    from endmark.jobs.progress import JobStatus
    from endmark.jobs.vocabulary import Attempt

__all__ = ["Attempt", "EndmarkError", "Engine", "Job", "JobStatus", "list_jobs", "run", "submit"]
_HOMES = {
    "Attempt": "jobs.vocabulary",
    "EndmarkError": "jobs.errors",
    "Engine": "client.engine",
    "Job": "client.job",
    "JobStatus": "jobs.progress",
    "list_jobs": "client.running",
    "run": "client.running",
    "submit": "client.running",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import one of the names above; `__version__` is the installed package's."""
    if name == "__version__":
        from importlib.metadata import version

        return version("endmark")
    if name not in _HOMES:
        raise AttributeError(f"module `endmark` has no attribute `{name}`")
    value = getattr(importlib.import_module(f"endmark.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
