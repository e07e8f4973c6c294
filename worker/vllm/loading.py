"""Loading a model into vLLM, and building the engine over it."""

import logging
import os
from collections.abc import Callable, Collection
from math import prod
from typing import Any

import numpy as np
from transformers import AutoConfig, GenerationConfig

from endmark.jobs.engines import LOCAL, RAY, VLLM, has_vllm
from endmark.jobs.errors import MissingDependency, ModelError
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.building import sentence_table
from endmark.worker.models.end_tokens import end_token_ids
from endmark.worker.models.loaded import Description, LoadedEngine
from endmark.worker.models.loader import load_tokenizer, model_path, tokenizer_folder
from endmark.worker.models.support import own_quantisation
from endmark.worker.vllm.adapters import Adapters
from endmark.worker.vllm.block import Block, packed
from endmark.worker.vllm.core import VllmCore
from endmark.worker.vllm.engine import VllmEngine
from endmark.worker.vllm.following import KEY

log = logging.getLogger(__name__)

_ROWS = 256  # at once, where nobody says how many
_PROCESSOR = "endmark.worker.vllm.processor:Draw"
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its scheduler runs in our process, the models of several cards do not
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other one takes no processors of this interface
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # every draw is ours
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # by itself it writes among a command's data
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


def load_vllm_engine(
    model: str,
    *,
    adapter: str | None = None,
    device: str = "cuda",
    weights: str = "auto",
    max_rows: int | None = None,
    kv_cache: str = "auto",
    trust_remote_code: bool = False,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    max_adapters: int = 0,
    executor: str = LOCAL,
    told: Callable[[str], None] = log.warning,
) -> LoadedEngine:
    """Load a model into vLLM.

    Args:
        model: a hub id, a folder, or `demo`.
        adapter: a folder with a PEFT adapter, for all rows.
        device: for the description; vLLM finds its own.
        weights: `nf4` quantises them as they are loaded, `checkpoint` takes the file's own quantisation, `16bit`
            none; `auto` is the file's own where it has one, else `nf4` where vLLM can, else `16bit`.
        max_rows: rows in one batch; by default 256.
        kv_cache: `auto`: the model's type, or `fp8`.
        tensor_parallel: cards that share each layer.
        pipeline_parallel: groups of cards that share the layers.
        max_adapters: that rows may name, so many at once.
        executor: `local`: the cards are this host's; `ray`: those of a Ray cluster that runs already.
        told: takes why the weights are not those that a user would expect.

    Raises:
        MissingDependency: vLLM is not installed.
        SpecError: the adapter was trained on another model.
        ModelError: the model is not there, vLLM cannot load it so, or the adapter is of a kind that cannot run.
    """
    if not has_vllm():
        raise MissingDependency("vLLM's engine", VLLM)
    path = model_path(model)
    adapters = Adapters(model, path, own=adapter, most=max_adapters)
    tokenizer = load_tokenizer(tokenizer_folder(path, adapter), trust_remote_code=trust_remote_code)
    config = _config(path, trust_remote_code=trust_remote_code)
    size = int(config.get_text_config().vocab_size)
    eos_ids = end_token_ids(_generation(path), config, config.get_text_config(), tokenizer, vocabulary=size)
    vocabulary = Vocabulary.of(tokenizer)
    block = _block(max_rows or _ROWS, vocabulary, size)
    cards = tensor_parallel, pipeline_parallel
    options = engine_options(block, eos_ids, kv_cache=kv_cache, cards=cards, executor=executor)
    options |= {"model": path, "trust_remote_code": trust_remote_code} | adapters.options()
    try:
        method, said = _method(options, weights, own_quantisation(config), told)
        llm, weight_bytes = _loaded(options | {"quantization": method}, model, weights)
    finally:
        block.unlink()
    core, name = VllmCore(llm, eos_ids, adapters), tokenizer.convert_ids_to_tokens
    engine = VllmEngine(core, block, vocabulary, eos_ids, embeddings=size, token_name=name)
    kind = (said or _short(llm.model_config.dtype)) + (", fp8 cache" if kv_cache == "fp8" else "")
    about = Description(model, adapter, device, kind, weight_bytes, engine.capacity.kv_tokens, VLLM)
    return LoadedEngine(engine, tokenizer, about)


def _block(rows: int, vocabulary: Vocabulary, size: int) -> Block:
    """Return the memory that engine and processors share, with the automaton of sentences for `size` tokens.

    Raises:
        ModelError: there is no room for it.
    """
    block = Block.make(rows, size)
    block.sentences[:] = np.asarray(sentence_table(vocabulary, size))
    return block


def _method(
    options: dict[str, Any], weights: str, own: dict[str, Any] | None, told: Callable[[str], None]
) -> tuple[str | None, str | None]:
    """Return what `chosen_weights` does, or 16 bits where `auto` would take what vLLM cannot do."""
    method, said = chosen_weights(weights, own)
    if weights == "auto" and method is not None and not can_quantise(options):
        told("the weights are in 16 bits: vLLM does not quantise this kind of model as it loads it")
        return None, None
    return method, said


def _loaded(options: dict[str, Any], model: str, weights: str) -> tuple[Any, int]:
    """Return what `build_llm` does.

    Raises:
        ModelError: vLLM cannot load the model so.
    """
    try:
        return build_llm(options)
    except Exception as error:
        raise ModelError(f"vLLM cannot load `{model}`: {error}", hint=_hint(weights)) from error


def _short(dtype: object) -> str:
    """Return what a torch type is called: `bf16`, `fp16` or `fp32`."""
    return str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")


def engine_options(
    block: Block,
    eos_ids: Collection[int],
    *,
    kv_cache: str = "auto",
    cards: tuple[int, int] = (1, 1),
    executor: str = LOCAL,
) -> dict[str, Any]:
    """Return vLLM's options that do not depend on the model.

    Args:
        block: of the engine, whose rows are vLLM's.
        eos_ids: all end tokens.
        kv_cache: `auto` or `fp8`.
        cards: that share each layer, and groups of them that share the layers. More than one are run by processes,
            which read what a draw is to know before the step; so steps do not overlap there.
        executor: as of `load_vllm_engine`. Processors on other hosts make blocks of their own.
    """
    slots, size = len(block.results), block.sentences.shape[1]
    said: dict[str, Any] = {"slots": slots, "vocabulary": size, "eos_ids": sorted(eos_ids)}
    abroad = executor == RAY
    said |= {"block": None, "sentences": packed(block.sentences)} if abroad else {"block": str(block.path)}
    options: dict[str, Any] = {
        "skip_tokenizer_init": True,
        "language_model_only": True,  # of a model that also sees: prompts are text
        "max_num_seqs": slots,
        "kv_cache_dtype": kv_cache,
        "disable_log_stats": True,
        "generation_config": "vllm",
        "logits_processors": [_PROCESSOR],
        "additional_config": {KEY: said},
        "tensor_parallel_size": cards[0],
        "pipeline_parallel_size": cards[1],
    }
    if prod(cards) > 1:
        options |= {"async_scheduling": False, "distributed_executor_backend": RAY if abroad else "mp"}
    return options


def build_llm(options: dict[str, Any]) -> tuple[Any, int]:
    """Return vLLM's engine, its processors bound, and the bytes that its weights take on a card."""
    vllm = _vllm()
    from vllm.usage.usage_lib import UsageContext

    from endmark.worker.vllm.processor import bind

    # How many tokens a step may have depends on the use: 2,048 for an engine alone, up to 16,384 for batches.
    llm = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**options), usage_context=UsageContext.LLM_CLASS)
    return llm, max(llm.collective_rpc(bind))


def _vllm() -> Any:  # noqa: ANN401
    """Return vLLM's package, imported under the environment that the engine wants."""
    os.environ.update(_ENVIRONMENT)
    import vllm

    return vllm


def can_quantise(options: dict[str, Any]) -> bool:
    """Whether vLLM can quantise a model as it loads it: its loader asks the model's class for its packed layers.

    Args:
        options: of its engine; that of a model that vLLM does not know is True, for loading says more.
    """
    vllm = _vllm()
    from vllm.model_executor.model_loader.utils import get_model_architecture

    try:
        network, _ = get_model_architecture(vllm.EngineArgs(**options).create_model_config())
    except (ValueError, OSError):
        return True
    return hasattr(network, "packed_modules_mapping")


def chosen_weights(weights: str, own: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """Return vLLM's method of quantisation, None for the file's own or none, and what it is called; None: 16 bits.

    Args:
        weights: as of `load_vllm_engine`.
        own: the model's `quantization_config`, None where it has none.

    Raises:
        ModelError: the two do not go together.
    """
    found = None if own is None else _called(own)
    if weights == "auto":
        weights = "checkpoint" if found else "nf4"
    if weights == "checkpoint":
        if found is None:
            raise ModelError("the checkpoint is not quantised", hint="take `--weights nf4` or `--weights 16bit`")
        return None, found
    if weights not in ("nf4", "16bit"):
        raise ModelError(
            f"vLLM's engine has no weights `{weights}`", hint="take `auto`, `nf4`, `checkpoint` or `16bit`"
        )
    if found is not None:
        raise ModelError(f"the checkpoint is quantised already: {found}", hint="leave `--weights` out")
    return ("bitsandbytes", "nf4") if weights == "nf4" else (None, None)


def _called(own: dict[str, Any]) -> str:
    """Return what a file's own quantisation is called: its method, its bits or its format where these are told."""
    bits = own.get("bits") or own.get("w_bit")
    parts = [own.get("quant_method") or "quantised", bits and f"{bits} bits", own.get("format")]
    return ", ".join(str(part) for part in parts if part)


def _config(path: str, *, trust_remote_code: bool) -> Any:  # noqa: ANN401
    """Return a model's configuration.

    Raises:
        ModelError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the configuration of `{path}`: {error}") from error


def _generation(path: str) -> GenerationConfig | None:
    """Return a model's generation config; None where it has none."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        return None


def _hint(weights: str) -> str | None:
    """Return what may help where vLLM cannot load a model."""
    if weights == "16bit":
        return None
    return "vLLM may not quantise this kind of model as it loads it: try `--weights 16bit`"
