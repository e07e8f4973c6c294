"""Which base model an adapter was trained on, told from the files of both."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.finetuning.lora import OTHER_WEIGHTS, WEIGHTS, check_shapes, read_pairs
from endmark.jobs.finetuning.names import hub_id, same_model
from endmark.jobs.finetuning.tensors import read_headers
from endmark.jobs.hub import local_folder

MANIFEST = "manifest.json"  # written by `endmark finetune`
ADAPTER_CONFIG = "adapter_config.json"  # written by peft
ADAPTER_BASE = "ENDMARK_ADAPTER_BASE"  # in the environment: `any` takes an adapter whatever its base is called
_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of each weight file
_PASSING_KEYS = frozenset(("_name_or_path", "transformers_version"))  # of a config, which any new save may change


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter was trained on."""

    model: str  # as it was called when the adapter was trained
    fingerprint: str | None  # of its files; None where the adapter has no manifest


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
    config = read_config(adapter)
    manifest = _read_json(adapter / MANIFEST) if (adapter / MANIFEST).is_file() else {}
    base = manifest.get("base", {})
    return Base(str(base.get("model") or config.get("base_model_name_or_path") or ""), base.get("fingerprint"))


def check_base(adapter: Path, model: str, folder: Path | None) -> None:
    """Refuse an adapter that was trained on another model.

    The files decide where both are known, else the names; see `names.same_model`.

    Args:
        adapter: the adapter's folder.
        model: what the model is called.
        folder: of its files, if they are on this machine.

    Raises:
        SpecError: the base is another one, or the folder holds no adapter.
    """
    base = read_base(adapter)
    if os.environ.get(ADAPTER_BASE) == "any" or _is_base(base, model, folder):
        return
    if same_model(base.model, model):
        raise SpecError(
            f"the adapter `{adapter}` was trained on `{model}` before its files were changed",
            hint="train one for the model as it is now: `endmark finetune`",
        )
    raise SpecError(
        f"the adapter `{adapter}` was trained on `{base.model}`, not on `{model}`",
        hint=f"use it with `--model {base.model}`, or train one for this model: `endmark finetune`; if it is the "
        "same model under another name, give `--adapter-base any`",
    )


def check_adapter(adapter: Path, model: str, folder: Path | None) -> None:
    """Refuse what the files of an adapter and of its model show to be wrong, in milliseconds; see `lora`.

    What is not there yet is not missed: the worker that loads it will.

    Args:
        adapter: the adapter's folder.
        model: what the model is called.
        folder: of its files, if they are on this machine.

    Raises:
        SpecError: it was trained on another model, or the folder holds no adapter.
        ModelError: it is of a kind that cannot run, or not whole, or of other sizes than the model.
    """
    check_base(adapter, model, folder)
    config = read_config(adapter)
    if "peft_type" not in config or not any((adapter / name).is_file() for name in (WEIGHTS, OTHER_WEIGHTS)):
        return
    pairs = read_pairs(adapter, config)
    if folder is not None:
        check_shapes(adapter, pairs, read_headers(folder.glob("*.safetensors")))


def read_config(adapter: Path) -> dict[str, Any]:
    """Return what peft wrote of an adapter.

    Raises:
        SpecError: the folder holds no adapter.
    """
    return _read_json(adapter / ADAPTER_CONFIG)


def _is_base(base: Base, model: str, folder: Path | None) -> bool:
    """Whether a model is the one that an adapter was trained on."""
    if base.fingerprint is not None and folder is not None:
        return base.fingerprint == fingerprint(folder)
    same_name = same_model(base.model, model)
    if not base.model or (folder is None and _last_part(base.model) == _last_part(model)):
        return True  # the worker that has the files looks again
    named = local_folder(base.model)
    if named is None or folder is None:
        return same_name
    if fingerprint(named) == fingerprint(folder):
        return True
    # Both are here and unlike: one may be the other's copy in fewer bits, which its name says.
    return same_name and _last_part(base.model) != _last_part(model)


def _last_part(model: str) -> str:
    """Return the part of a hub id or path that names the model itself."""
    return hub_id(model).rsplit("/", 1)[-1].lower()


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
