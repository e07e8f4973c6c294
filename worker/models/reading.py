"""Reading a model's files with transformers, and refusing all that it would read in silence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from endmark.jobs.engines import SEVERAL_CARDS
from endmark.jobs.errors import ModelError, Refusal
from endmark.jobs.finetuning.adapters import ADAPTER_CONFIG
from endmark.jobs.finetuning.tensors import read_headers
from endmark.worker.engine.attention import PLAIN
from endmark.worker.models.adapters import check_folder, model_folder
from endmark.worker.models.checkpoint import check_complete, check_packed, check_packed_files
from endmark.worker.models.support import HINT, check_kind, check_quantised

_OBJECTS: Mapping[str, tuple[str, ...]] = {  # small files of a model, with the objects that each must hold
    "config.json": (),
    "generation_config.json": (),
    "tokenizer_config.json": (),
    "model.safetensors.index.json": ("metadata", "weight_map"),
}
_LFS = b"version https://git-lfs"
_UNKNOWN = ("does not recognize this architecture", "Unrecognized configuration class", "Unrecognized model")


def read_network(
    path: str, device: str, dtype: torch.dtype, *, trust_remote_code: bool, four_bits: bool = True
) -> PreTrainedModel:
    """Return a model with its weights as NF4 with double quantisation, or as its files have them.

    Args:
        path: a folder or a hub id.
        device: `cpu` or `cuda`.
        dtype: to compute in.

    Raises:
        ModelError: it is not there, not whole, or of a kind that the engine cannot run.
    """
    check_folder(path)
    _refuse_adapter(path, found=(Path(path) / ADAPTER_CONFIG).is_file())
    network, found = _read(path, device, dtype, trust_remote_code=trust_remote_code, four_bits=four_bits)
    _refuse_adapter(path, found=network._hf_peft_config_loaded)
    _check_files(path)
    check_complete(network, found, path)
    check_packed(network, path)
    return network


def _refuse_adapter(path: str, *, found: bool) -> None:
    """Refuse a model with an adapter beside it: transformers would put it into the model, unasked and unchecked.

    Raises:
        ModelError: there is one.
    """
    if found:
        raise ModelError(
            f"`{path}` holds an adapter (`{ADAPTER_CONFIG}`), so it is not clear what is to run",
            hint="give the adapter as `--adapter` and its base as `--model`; to run a model beside which it lies, "
            "move its files away",
        )


def _check_files(path: str) -> None:
    """Refuse files that do not hold all of their packed weights.

    Raises:
        ModelError: naming what is missing.
    """
    check_packed_files(read_headers(model_folder(path).glob("*.safetensors")), path)


def _read(
    path: str, device: str, dtype: torch.dtype, *, trust_remote_code: bool, four_bits: bool
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Return the network, and what transformers says of its files; see `check_complete`.

    Raises:
        ModelError: it cannot be loaded, or is of a kind that the engine cannot run.
    """
    transformers_logging.disable_progress_bar()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        _check_config(path, trust_remote_code=trust_remote_code)  # before gigabytes of weights are read
        # With the report of its loading a pair is returned, of which the type says nothing.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            quantization_config=quantization if four_bits else None,
            dtype=dtype,
            device_map={"": device},
            attn_implementation=PLAIN,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told, and refused by `check_complete`
        )
    except ModelError:
        raise
    except SafetensorError as error:
        raise _damaged(path, error) from error
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the model `{path}` does not fit on the card: {error}",
            hint=f"take a smaller model or a larger card, or {SEVERAL_CARDS}",
        ) from error
    except Exception as error:  # a library's reader of files that anybody may have written: it may raise anything
        _check_files(path)  # where a part of a packed weight is missing it says so, and transformers does not
        check_readable(path, trust_remote_code=trust_remote_code)
        said = f"cannot load the model `{path}`: {words_of(error)}"
        raise ModelError(said, hint=_fix_of(path, error)) from error
    network, found = loaded
    return network, found


def check_json(path: str) -> None:
    """Refuse a folder whose small files are not what their names say, by their names.

    The libraries read them one after the other, and name another file or none.

    Raises:
        ModelError: one is no JSON object, or has not what it is for.
    """
    for name, keys in _OBJECTS.items():
        file = Path(path) / name
        try:
            values = json.loads(file.read_bytes())
        except FileNotFoundError:  # a hub id, or a model without it
            continue
        except (OSError, ValueError, RecursionError) as error:
            reason = words_of(error)
        else:
            lacking = [
                key for key in keys if not isinstance(values, dict) or not isinstance(values.get(key), dict)
            ]
            if isinstance(values, dict) and not lacking:
                continue
            reason = f"it has no `{lacking[0]}`" if isinstance(values, dict) else "it is no JSON object"
        raise ModelError(f"cannot read the {name} of `{path}`: {reason}", hint="copy or download the file again")


def words_of(error: Exception) -> str:
    """Return what a library says of a file that it cannot read, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


def check_readable(path: str, *, trust_remote_code: bool) -> None:
    """Tell of a config.json that cannot be read, by which other files seem to be wrong.

    Raises:
        ModelError: it cannot.
    """
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:
        if any(words in str(error) for words in (*_UNKNOWN, "trust_remote_code")) or not Path(path).is_dir():
            return
        raise ModelError(
            f"cannot read the config.json of `{path}`: {words_of(error)}", hint="copy or download the file again"
        ) from error


def _damaged(path: str, error: SafetensorError) -> ModelError:
    """Return the error of a model of which a file is damaged, naming the file."""
    for file in sorted(model_folder(path).glob("*.safetensors")):
        with file.open("rb") as opened:
            if opened.read(len(_LFS)) == _LFS:
                return ModelError(
                    f"`{file}` is a pointer of Git LFS, and not the weights",
                    hint="`git lfs pull` in its folder gets them",
                )
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return ModelError(f"`{file}` is damaged: {error}", hint="copy or download it again")
    return ModelError(f"a file of the model `{path}` is damaged: {error}", hint="copy or download the model again")


def _fix_of(path: str, error: Exception) -> str:
    """Return what to do about a model that cannot be loaded."""
    if not any(Path(path).glob("*.safetensors")) and any(Path(path).glob("*.bin")):
        return (
            "its weights are in `.bin` files, which run code when they are read: take a copy in safetensors, or "
            "write them anew with transformers' `save_pretrained`"
        )
    if any(Path(path).glob("*.gguf")):
        return "Endmark reads no GGUF: give the model that it was made of"
    if any(Path(path).glob("*.safetensors")) and not isinstance(error, OSError):
        return "compare its config.json with that of the model's source; it may need a newer transformers"
    return "give a folder or a hub id with safetensors weights"


def _check_config(path: str, *, trust_remote_code: bool) -> None:
    """Refuse a model that its config shows to be one that the engine cannot run.

    Raises:
        Refusal: its weights are quantised otherwise than by bitsandbytes, its layers are of a kind that the engine
            has not, or transformers knows no text model of its kind.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        check_quantised(config)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        if "trust_remote_code" in str(error) or not any(words in str(error) for words in _UNKNOWN):
            raise
        raise Refusal(f"transformers knows no text model of the kind of `{path}`: {error}", hint=HINT) from error
    check_kind(skeleton)
