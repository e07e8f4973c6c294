"""What an adapter was made of: written when the run begins, to go on from, and as its manifest when it is done."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.finetuning.adapters import MANIFEST
from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.worker.finetune.holding import LOCK
from endmark.worker.models.adapters import model_fingerprint
from endmark.worker.models.loader import model_path

EVALUATION = "evaluation.json"
_RUN = "run.json"  # while it is not done
_PACKAGES = ("endmark", "torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
_HOW = frozenset(("output", "save_every", "dataset"))  # of the spec, what does not decide the result


def describe(spec: FinetuneSpec) -> dict[str, Any]:
    """Return what decides the result of a run: the base, the data, the spec, the versions.

    Raises:
        SpecError: the dataset cannot be read.
    """
    try:
        with Path(spec.dataset).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SpecError(f"cannot read `{spec.dataset}`: {error.strerror}") from error
    return {
        "version": 1,
        "base": {"model": spec.model, "fingerprint": model_fingerprint(model_path(spec.model))},
        "dataset": {"name": Path(spec.dataset).name, "sha256": digest},
        "spec": {key: value for key, value in asdict(spec).items() if key not in _HOW},
        "seed": spec.seed,
        "versions": {name: version(name) for name in _PACKAGES},
    }


def begin_run(output: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Take a folder, held, for a run; return the evaluation as far as the same run, called before, has come.

    Raises:
        SpecError: the folder holds something else.
    """
    run, manifest = output / _RUN, output / MANIFEST
    if run.exists() or manifest.exists():
        before = json.loads((manifest if manifest.exists() else run).read_text(encoding="utf-8"))
        if any(before.get(key) != description[key] for key in ("base", "dataset", "spec")):
            raise SpecError(
                f"`{output}` holds a fine-tuning with other data, another model or other options",
                hint="call it as before to go on with it, choose another folder with `-o`, or remove this one",
            )
    elif any(path.name != LOCK for path in output.iterdir()):
        raise SpecError(f"the folder `{output}` is not empty", hint="choose a new folder with `-o`")
    else:
        write_json(run, description)
    return read_evaluation(output)


def end_run(output: Path, description: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write the manifest, by which the adapter counts as finished."""
    write_json(output / MANIFEST, {**description, **results, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    (output / _RUN).unlink(missing_ok=True)


def is_done(output: Path) -> bool:
    """Whether the folder holds a finished adapter."""
    return (output / MANIFEST).exists()


def read_evaluation(output: Path) -> dict[str, Any]:
    """Return the evaluation as far as it is known."""
    path = output / EVALUATION
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(fresh, path)  # noqa: PTH105
