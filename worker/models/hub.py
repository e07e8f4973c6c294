"""Models of a hub: the copy on this machine is taken where the hub cannot be reached."""

import os
import socket
import time
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from endmark.jobs.errors import ModelError
from endmark.jobs.hub import cached_folder, is_hub_id

_HUB = "https://huggingface.co"
_PATIENCE = 5.0  # seconds for a connection
_ASKED_AGAIN = 60.0  # seconds after which a hub is tried again
_YES = frozenset({"1", "ON", "YES", "TRUE"})  # as huggingface_hub reads them


def reachable_source(model: str) -> str:
    """Return where transformers is to look for a model: its own name, or the folder of its copy.

    Without a network transformers asks for each file anew, 23 s each time, although it has a copy of all of them.

    Args:
        model: a folder, or an id of the hub.

    Raises:
        ModelError: there is no copy, and the hub cannot be reached.
    """
    offline = any(os.environ.get(name, "").upper() in _YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    if offline or Path(model).is_dir() or not (is_hub_id(model) or "/" not in model):
        return model
    endpoint = os.environ.get("HF_ENDPOINT") or _HUB
    reason = _unreachable(endpoint, int(time.monotonic() // _ASKED_AGAIN))
    if reason is None:
        return model
    copy = cached_folder(model)
    if copy is not None:
        return str(copy)
    raise ModelError(
        f"`{model}` is not on this machine, and {endpoint} cannot be reached: {reason}",
        hint="give a folder, or copy the hub's cache (HF_HOME) from a machine that has the model; HTTPS_PROXY "
        "names a proxy, HF_ENDPOINT another hub",
    )


@lru_cache(maxsize=4)
def _unreachable(endpoint: str, when: int) -> str | None:
    """Return why there is no connection to a hub, or None; `when` changes when it is to be tried again."""
    del when
    parts = urlsplit(endpoint)
    proxies = getproxies()
    if parts.hostname is None or parts.scheme in proxies or "all" in proxies:
        return None
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=_PATIENCE).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
