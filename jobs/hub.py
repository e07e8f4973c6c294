"""Names of models: what may be a hub id, which models this host has, and which a misspelt name may mean."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from endmark.jobs.errors import SpecError
from endmark.jobs.settings import DEMO_MODEL

BUNDLED = Path(__file__).resolve().parents[1] / "worker" / "demo" / "model"  # the demo model
_PART = r"[A-Za-z0-9_](?:[\w.-]*\w)?"  # as huggingface_hub checks it, which takes half a second to import
_ID = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_LONGEST = 96  # characters
# Ids from before owners, to which the hub still leads.
_BARE = frozenset({"distilgpt2", "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl", "openai-gpt"})
_NEAR = 0.75


def local_folder(model: str) -> Path | None:
    """Return the folder of a model if it is one on this machine; the bundled model has one."""
    folder = BUNDLED if model == DEMO_MODEL else Path(model)
    return folder if (folder / "config.json").is_file() else None


def check_model_name(text: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Refuse a name under which no hub has a model, nor this host; return a doubt about another one, or None.

    Args:
        text: no folder, which is known already.

    Raises:
        SpecError: it can be no model's name.
    """
    cached = cached_models(environ)
    if text == DEMO_MODEL or text in _BARE or text in cached:
        return None
    near = get_close_matches(text, [*cached, *folders_beside(text), DEMO_MODEL, *_BARE], n=3, cutoff=_NEAR)
    meant = " or ".join(f"`{name}`" for name in near)
    if not is_hub_id(text):
        known = f"did you mean {meant}? " if meant else ""
        raise SpecError(
            f"`{text}` is neither a folder nor the id of a model",
            hint=f"{known}{'A' if known else 'a'} hub id is written `owner/name`, a folder as `./folder`",
        )
    return f"`{text}` is no folder and not downloaded yet; did you mean {meant}?" if meant else None


def is_hub_id(text: str) -> bool:
    """Whether a text may be the id of a model on the hub."""
    whole = _ID.fullmatch(text) is not None and len(text) <= _LONGEST
    return whole and "--" not in text and ".." not in text and not text.endswith(".git")


def cached_models(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the ids of the models in the hub's cache on this host."""
    folders = _folders(_cache(environ), "models--*")
    return [path.name.removeprefix("models--").replace("--", "/") for path in folders]


def cached_folder(text: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder in the hub's cache with the newest files of a model; None if it is not on this host."""
    folder = _cache(environ).expanduser() / f"models--{text.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except OSError:
        return None
    found = folder / "snapshots" / revision
    return found if (found / "config.json").is_file() else None


def _cache(environ: Mapping[str, str]) -> Path:
    """Return the folder of the hub's cache."""
    cache = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    home = environ.get("HF_HOME") or str(
        Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    return Path(cache) if cache else Path(home) / "hub"


def folders_beside(text: str) -> list[str]:
    """Return the models' folders that stand where a relative path leads, written as it is."""
    parent = Path(text).parent
    return [str(path) for path in _folders(parent, "*") if (path / "config.json").is_file()]


def _folders(folder: Path, pattern: str) -> list[Path]:
    """Return the folders in a folder; none if it cannot be read."""
    try:
        return sorted(path for path in folder.expanduser().glob(pattern) if path.is_dir())
    except OSError:
        return []
