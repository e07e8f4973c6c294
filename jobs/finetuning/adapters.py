"""Which base model an adapter was trained on, told from the files of both."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.settings import DEMO_MODEL

MANIFEST = "manifest.json"  # written by `endmark finetune`
ADAPTER_CONFIG = "adapter_config.json"  # written by peft
_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of each weight file
_PASSING_KEYS = frozenset(("_name_or_path", "transformers_version"))  # of a config, which any new save may change
BUNDLED = Path(__file__).resolve().parents[2] / "worker" / "demo" / "model"  # the demo model


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter was trained on."""

    model: str  # as it was called when the adapter was trained
    fingerprint: str | None  # of its files; None where the adapter has no manifest


def local_folder(model: str) -> Path | None:
    """Return the folder of a model if it is one on this machine; the bundled model has one."""
    folder = BUNDLED if model == DEMO_MODEL else Path(model)
    return folder if (folder / "config.json").is_file() else None


def fingerprint(folder: Path) -> str:
    """Return a hash of a model's configuration and weights, in milliseconds whatever their size.

    Of each safetensors file it takes the size, the header and 64 samples: training or another model changes all
    weights, and moving the folder none.
    """
    digest = hashlib.sha256()
    config = _read_json(folder / "config.json")
    kept = {key: value for key, value in config.items() if key not in _PASSING_KEYS}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(length, size)))
            begin = 8 + length
            for sample in range(_SAMPLES):
                file.seek(begin + (size - begin) * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()}"


def read_base(adapter: Path) -> Base:
    """Return what an adapter says of its base.

    Raises:
        SpecError: the folder holds no adapter.
    """
    config = _read_json(adapter / ADAPTER_CONFIG)
    manifest = _read_json(adapter / MANIFEST) if (adapter / MANIFEST).is_file() else {}
    base = manifest.get("base", {})
    return Base(str(base.get("model") or config.get("base_model_name_or_path") or ""), base.get("fingerprint"))


def check_base(adapter: Path, model: str, folder: Path | None) -> None:
    """Refuse an adapter that was trained on another model.

    The files decide where both are known, else the names: their last part, since a model may lie in a folder.

    Args:
        adapter: the adapter's folder.
        model: what the model is called.
        folder: of its files, if they are on this machine.

    Raises:
        SpecError: the base is another one, or the folder holds no adapter.
    """
    base = read_base(adapter)
    if base.fingerprint is not None and folder is not None:
        same = base.fingerprint == fingerprint(folder)
    else:
        same = not base.model or _last_part(base.model) == _last_part(model)
    if same:
        return
    if _last_part(base.model) == _last_part(model):
        raise SpecError(
            f"the adapter `{adapter}` was trained on `{model}` before its files were changed",
            hint="train one for the model as it is now: `endmark finetune`",
        )
    raise SpecError(
        f"the adapter `{adapter}` was trained on `{base.model}`, not on `{model}`",
        hint=f"use it with `--model {base.model}`, or train one for this model: `endmark finetune`",
    )


def _last_part(model: str) -> str:
    """Return the part of a hub id or path that names the model itself."""
    return str(local_folder(model) or model).rstrip("/").rsplit("/", 1)[-1].lower()


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SpecError: there is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(
            f"cannot read `{path}`: {getattr(error, 'strerror', None) or error}",
            hint=f"an adapter's folder holds `{ADAPTER_CONFIG}`" if path.name == ADAPTER_CONFIG else None,
        ) from error
    if not isinstance(values, dict):
        raise SpecError(f"`{path}` is not a JSON object")
    return values
