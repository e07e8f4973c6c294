"""An exception that nobody has foreseen: told in one line, its trace kept in a file."""

import os
import time
import traceback

from endmark.jobs.errors import EndmarkError
from endmark.jobs.private import open_private, private_folder
from endmark.jobs.settings import Settings
from endmark.worker.process.logs import printable

_KEPT = 20
_LONGEST = 300  # characters of what an exception says


def described(error: BaseException) -> str:
    """Return an exception in one line, by its type and the first line of what it says."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {printable(said, _LONGEST)}" if said else type(error).__name__


def write_trace(error: BaseException) -> str:
    """Write an exception with its trace to a file under the home; return its path, or why there is none."""
    try:
        folder = private_folder(Settings.load().home / "logs")
        for old in sorted(folder.glob("trace-*"))[:-_KEPT]:
            old.unlink(missing_ok=True)
        path = folder / f"trace-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        with open_private(path) as file:
            file.write("".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
    except (EndmarkError, OSError) as failure:
        return f"no file: {failure}"
    return str(path)
