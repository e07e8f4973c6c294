"""Seeing a job through to its end, with its crew; what Ctrl-C means meanwhile."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from endmark.cli.crew import Crew
from endmark.cli.progress import Show, what_it_does
from endmark.cli.watching import read_patiently
from endmark.db.connection import Store
from endmark.db.jobs import pause_job
from endmark.db.progress import job_status
from endmark.jobs.errors import JobStateError, StoreError
from endmark.jobs.progress import JobStatus

_POLL, _POLL_AT_THE_END = 0.3, 0.1  # seconds between looks, and once the last rows run


def wait_for(store: Store, job_id: str, crew: Crew, show: Show) -> JobStatus:
    """Show a job's progress until it has ended.

    Raises:
        WorkerFailed: the worker ended before it.
        StoreError: the database stays away.
    """
    while True:
        alive = crew.alive  # asked first: a worker may end right after its last row
        status = read_patiently(lambda: job_status(store, job_id))
        show(status, what_it_does(status) if status.workers else crew.doing)
        if status.state.is_final:
            return status
        if not alive:
            raise crew.failure()
        crew.look_after(served=bool(status.workers))
        time.sleep(_POLL if status.pending else _POLL_AT_THE_END)


def pause(store: Store, job_id: str) -> str:
    """Pause a job, so that no other worker takes it up unasked; say so, and how far it is."""
    try:
        with suppress(JobStateError):  # it ended at the last moment, or was paused already
            pause_job(store, job_id)
        status = job_status(store, job_id)
    except StoreError as error:
        return f"job {job_id} could not be paused, and any worker may go on with it: {error}"
    return f"job {job_id} is paused, {status.succeeded + status.failed:,} of {status.total:,} rows done"


@contextmanager
def ended_like_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the command as Ctrl-C does: in order."""
    before = {
        number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
