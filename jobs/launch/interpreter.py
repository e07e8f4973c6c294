"""The one way in which Endmark starts a Python interpreter."""

import sys


def module_command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module of the package `endmark`.

    `-P` keeps the current folder out of the import path: a `torch.py` where the user stands is not ours.
    """
    return [sys.executable, "-P", "-m", module, *words]
