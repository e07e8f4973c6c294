"""Loading a model in 4 bits (NF4, double quantisation) and building the engine around it."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from endmark.jobs.errors import ModelError
from endmark.jobs.finetuning.adapters import check_adapter, read_config
from endmark.jobs.finetuning.lora import read_pairs
from endmark.jobs.hub import local_folder
from endmark.jobs.settings import DEMO_MODEL
from endmark.worker.demo import MODEL_DIR
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.four_bits import Linear4bit
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.adapters import apply_adapter, check_folder
from endmark.worker.models.building import Shape, build_runner
from endmark.worker.models.end_tokens import end_token_ids
from endmark.worker.models.hub import reachable_source
from endmark.worker.models.laps import Laps
from endmark.worker.models.loaded import Description, OwnEngine
from endmark.worker.models.reading import check_json, check_readable, read_network, words_of
from endmark.worker.models.support import check_attention
from endmark.worker.models.weights import (
    FP8_ORIGINAL,
    ROUNDED_MODES,
    apply_weights_mode,
    check_mode,
    check_original,
)

log = logging.getLogger(__name__)
_UNEVEN = (
    "beyond them its rotary factors depend on the longest row of a batch, which would change the answers of others"
)


def model_path(model: str) -> str:
    """Return the folder or hub id of a model; the bundled one goes by its name.

    Raises:
        ModelError: it is a hub's, has no copy on this machine, and the hub cannot be reached.
    """
    return str(MODEL_DIR) if model == DEMO_MODEL else reachable_source(model)


def load_engine(
    model: str,
    *,
    adapter: str | None = None,
    device: str = "cpu",
    weights: str = "auto",
    max_rows: int | None = None,
    kv_cache: str = "auto",
    trust_remote_code: bool = False,
    four_bits: bool = True,
) -> OwnEngine:
    """Load a model in NF4 and build its engine.

    Args:
        model: a hub id, a folder, or `demo`.
        adapter: a folder with a PEFT adapter.
        device: `cpu` or `cuda`.
        weights: `packed`, `expanded`, `auto`, `fp8`, or `fp8-original`: from the files' weights and not from NF4;
            `bf16` on a CPU.
        max_rows: rows in one batch; by default what suits the device.
        kv_cache: `auto`: the model's type, or `fp8`, which takes half the room and changes results a little.
        four_bits: whether it is quantised; only to compare with, the weights are left as the files have them.

    Raises:
        Refusal: it is of a kind that this engine cannot run.
        ModelError: the model is not there, or the adapter is of a kind that cannot run.
        SpecError: the adapter was trained on another model.
    """
    path = model_path(model)
    check_json(path)
    if adapter is not None:
        _check_adapter_files(adapter, model, path)  # before gigabytes of weights are read
    check_mode(weights, device)
    laps = Laps()
    tokenizer = load_tokenizer(tokenizer_folder(path, adapter), trust_remote_code=trust_remote_code)
    laps.end("tokeniser")
    four_bits = four_bits and weights != FP8_ORIGINAL
    network = load_model(path, device=device, trust_remote_code=trust_remote_code, four_bits=four_bits)
    laps.end("files")
    shape, shortened = _shape_of(network, model, max_rows, kv_cache)
    chosen = _set_weights(network, weights, shape.reserve, adapter, model)
    laps.end("weights")
    if max_rows is None:
        shape = shape.widened()
    weight_bytes = sum(item.numel() * item.element_size() for item in network.parameters())
    engine = _build_engine(network, tokenizer, shape, shortened, kv_cache, laps)
    log.info("loading took: %s", laps)
    description = Description(
        model=model,
        adapter=adapter,
        device=device,
        weights=f"{chosen}, fp8 cache" if kv_cache == "fp8" else chosen,
        weight_bytes=weight_bytes,
        kv_tokens=engine.capacity.kv_tokens,
    )
    return OwnEngine(engine, tokenizer, description, engine.runner)


def _build_engine(
    network: PreTrainedModel,
    tokenizer: Any,  # noqa: ANN401
    shape: Shape,
    shortened: str | None,
    kv_cache: str,
    laps: Laps,
) -> Engine:
    """Build the engine around a network whose weights are as they shall be.

    Args:
        shortened: why its rows must be shorter than the model's, if they must.
    """
    eos_ids = end_token_ids(network.generation_config, network.config, tokenizer, vocabulary=shape.vocabulary)
    vocabulary = Vocabulary.of(tokenizer)
    laps.end("vocabulary")
    runner = build_runner(network, eos_ids, vocabulary, shape, kv_cache)
    laps.end("runner")
    return Engine(
        runner,
        vocabulary,
        eos_ids,
        embeddings=count_embeddings(network),
        context_reason=shortened,
        token_name=tokenizer.convert_ids_to_tokens,
    )


def _shape_of(
    network: PreTrainedModel, model: str, max_rows: int | None, kv_cache: str
) -> tuple[Shape, str | None]:
    """Return the shape of a network that the engine can run, and why its rows must be shorter than the model's.

    Raises:
        ModelError: it cannot run.
    """
    shape = Shape.of(network, max_rows, kv_cache)
    limit = check_attention(
        network,
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        context=shape.context,
    )
    if limit == shape.context:
        return shape, None
    log.warning("rows of `%s` may have %d tokens of the model's %d: %s", model, limit, shape.context, _UNEVEN)
    return replace(shape, context=limit), _UNEVEN


def _set_weights(network: PreTrainedModel, mode: str, reserve: float, adapter: str | None, model: str) -> str:
    """Bring the weights into their form, and the adapter into them; return `apply_weights_mode`'s word for it.

    Raises:
        SpecError: the adapter was trained on another model.
        ModelError: it cannot run, or there is no original.
    """
    if mode == FP8_ORIGINAL:
        check_original(network, model)
    early = mode in ROUNDED_MODES  # there an adapter is rounded with the weights that it is added to
    if adapter is not None and early:
        apply_adapter(network, adapter, model=model, path=model_path(model))
    chosen = apply_weights_mode(network, mode, reserve)
    if adapter is not None and not early:
        apply_adapter(network, adapter, model=model, path=model_path(model))
    return chosen


def _check_adapter_files(adapter: str, model: str, path: str) -> None:
    """Refuse what an adapter's own files show to be wrong, and those of a model that is a folder.

    Raises:
        SpecError: it was trained on another model.
        ModelError: it is of a kind that cannot run, not whole, or of other sizes than the model.
    """
    folder = local_folder(path)
    if folder is not None:
        check_adapter(Path(adapter), model, folder)
    read_pairs(Path(adapter), read_config(Path(adapter)))


def tokenizer_folder(path: str, adapter: str | None) -> str:
    """Return where the tokeniser is: with the adapter if it has one, for its chat template is the trained one."""
    return adapter if adapter is not None and (Path(adapter) / "tokenizer.json").is_file() else path


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """Load a model's fast tokeniser.

    Raises:
        ModelError: it is not there, or has no fast form.
    """
    check_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # as in `read_network`: the files may hold anything
        check_readable(path, trust_remote_code=trust_remote_code)
        raise ModelError(
            f"cannot load the tokeniser of `{path}`: {words_of(error)}",
            hint="copy or download its tokenizer.json and tokenizer_config.json again",
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokeniser of `{path}` has no fast form", hint="add its tokenizer.json to the folder"
        )
    return tokenizer


def load_model(
    path: str, *, device: str, trust_remote_code: bool = False, four_bits: bool = True
) -> PreTrainedModel:
    """Load a model's weights as NF4 with double quantisation, in fp32 on CPU and 16 bits on CUDA.

    Without `four_bits` they are left as the files have them.

    Raises:
        ModelError: it is not there, cannot be loaded, or is of a kind that the engine cannot run.
    """
    dtype = compute_dtype(device)
    network = read_network(path, device, dtype, trust_remote_code=trust_remote_code, four_bits=four_bits)
    for module in network.modules():
        if device == "cpu" and isinstance(module, Linear4bit):
            # bitsandbytes would multiply in bf16 on some processors: an answer must not depend on which.
            module.support_avx512bf16_for_cpu = False
    network.eval()
    return network


def count_embeddings(network: PreTrainedModel) -> int:
    """Return how many tokens the model can take in: those from this id on have no embedding."""
    embedding = network.get_input_embeddings().weight
    assert isinstance(embedding, Tensor)
    return len(embedding)


def compute_dtype(device: str) -> torch.dtype:
    """Return the type to compute in: fp32 on CPU, bf16 where the GPU has it, else fp16."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
