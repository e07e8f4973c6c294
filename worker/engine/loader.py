"""Loading a model in 4 bits (NF4, double quantisation) and building the engine around it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from jobs.errors import ModelError
from jobs.sentences import tabulate
from jobs.settings import DEMO_MODEL
from worker.demo import MODEL_DIR
from worker.engine.adapters import apply_adapter
from worker.engine.attention import PLAIN
from worker.engine.engine import Engine
from worker.engine.plain_runner import PlainRunner
from worker.engine.text import Vocabulary

_CPU_ROWS = 64
_CPU_CACHE_BYTES = 1 << 30
_PAGE_SIZE = 16


@dataclass(frozen=True, slots=True)
class Description:
    """What an engine runs on, for logs and `status`."""

    model: str
    adapter: str | None
    device: str
    weights: str  # packed or expanded
    weight_bytes: int
    kv_tokens: int  # tokens that the KV cache holds


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine with the tokeniser that feeds it."""

    engine: Engine
    tokenizer: Any
    description: Description


def model_path(model: str) -> str:
    """Return the folder or hub id of a model; the bundled one goes by its name."""
    return str(MODEL_DIR) if model == DEMO_MODEL else model


def load_engine(
    model: str,
    *,
    adapter: str | None = None,
    device: str = "cpu",
    weights: str = "auto",
    max_rows: int | None = None,
    trust_remote_code: bool = False,
) -> LoadedEngine:
    """Load a model in NF4 and build its engine.

    Args:
        model: a hub id, a folder, or `demo`.
        adapter: a folder with a PEFT adapter.
        device: `cpu` or `cuda`.
        weights: `packed`, `expanded` or `auto`.
        max_rows: rows in one batch; by default what suits the device.

    Raises:
        ModelError: the model is not there, or it or the adapter is of a kind that cannot run.
        SpecError: the adapter was trained on another model.
    """
    path = model_path(model)
    tokenizer = load_tokenizer(tokenizer_folder(path, adapter), trust_remote_code=trust_remote_code)
    network = load_model(path, device=device, trust_remote_code=trust_remote_code)
    chosen = _choose_weights(network, weights)
    if chosen == "expanded":
        expand(network)
    if adapter is not None:
        apply_adapter(network, adapter, model=model, path=path)
    eos_ids = end_token_ids(network.generation_config, network.config, tokenizer)
    vocabulary = Vocabulary.of(tokenizer)
    rows = max_rows or _CPU_ROWS
    context = _context(network)
    token_bytes = _kv_bytes(network)
    pages = max(1, min(_CPU_CACHE_BYTES // token_bytes, rows * context) // _PAGE_SIZE)
    runner = PlainRunner(
        network,
        eos_ids,
        num_pages=pages,
        page_size=_PAGE_SIZE,
        max_rows=rows,
        prefill_tokens=4 * context,
        context=context,
        sentence_table=torch.tensor(
            [list(row) for row in tabulate(_padded(vocabulary.token_bytes, network))], dtype=torch.uint8
        ),
    )
    description = Description(
        model=model,
        adapter=adapter,
        device=device,
        weights=chosen,
        weight_bytes=sum(item.numel() * item.element_size() for item in network.parameters()),
        kv_tokens=pages * _PAGE_SIZE,
    )
    return LoadedEngine(Engine(runner, vocabulary, eos_ids), tokenizer, description)


def tokenizer_folder(path: str, adapter: str | None) -> str:
    """Return where the tokeniser is: with the adapter if it has one, for its chat template is the trained one."""
    return adapter if adapter is not None and (Path(adapter) / "tokenizer.json").is_file() else path


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """Load a model's fast tokeniser.

    Raises:
        ModelError: it is not there, or has no fast form.
    """
    _check_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the tokeniser of `{path}`: {error}") from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokeniser of `{path}` has no fast form", hint="add its tokenizer.json to the folder"
        )
    return tokenizer


def load_model(path: str, *, device: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a model's weights as NF4 with double quantisation, in fp32 on CPU and 16 bits on CUDA.

    Raises:
        ModelError: it is not there or cannot be loaded.
    """
    _check_folder(path)
    transformers_logging.disable_progress_bar()
    dtype = compute_dtype(device)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        network = AutoModelForCausalLM.from_pretrained(
            path,
            quantization_config=quantization,
            dtype=dtype,
            device_map={"": device},
            attn_implementation=PLAIN,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load the model `{path}`: {error}", hint="give a folder or a hub id with safetensors weights"
        ) from error
    for module in network.modules():
        if device == "cpu" and isinstance(module, Linear4bit):
            # bitsandbytes would multiply in bf16 on some processors: an answer must not depend on which.
            module.support_avx512bf16_for_cpu = False
    network.eval()
    loaded: PreTrainedModel = network
    return loaded


def compute_dtype(device: str) -> torch.dtype:
    """Return the type to compute in: fp32 on CPU, bf16 where the GPU has it, else fp16."""
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def end_token_ids(*sources: Any) -> frozenset[int]:  # noqa: ANN401
    """Return every end token that a model's generation config, config and tokeniser name, all of them together.

    Raises:
        ModelError: the model has none.
    """
    found: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        if isinstance(value, Iterable):
            found.update(value)
        elif value is not None:
            found.add(int(value))
    if not found:
        raise ModelError("the model names no end token", hint="set eos_token_id in its generation_config.json")
    return frozenset(found)


def expand(network: nn.Module) -> None:
    """Replace every NF4 layer by a plain one that holds the same, dequantised values."""
    for name, module in list(network.named_modules()):
        if not isinstance(module, Linear4bit):
            continue
        packed = module.weight
        assert isinstance(packed, Params4bit)
        weight = dequantize_4bit(packed.data, packed.quant_state)
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight.to(module.compute_dtype or weight.dtype), requires_grad=False)
        plain.bias = module.bias
        network.set_submodule(name, plain)


def _choose_weights(network: PreTrainedModel, weights: str) -> str:
    """Return packed or expanded; `auto` expands where the plain weights take at most half the free memory."""
    if weights != "auto":
        return weights
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return "expanded" if network.num_parameters() * network.dtype.itemsize * 2 <= free else "packed"


def _context(network: PreTrainedModel) -> int:
    """Return how many tokens a row may have, prompt and answer."""
    return int(network.config.get_text_config().max_position_embeddings)


def _kv_bytes(network: PreTrainedModel) -> int:
    """Return the cache's bytes a token."""
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * network.dtype.itemsize)


def _padded(token_bytes: tuple[bytes, ...], network: PreTrainedModel) -> list[bytes]:
    """Return the bytes of as many tokens as the model has scores for."""
    missing = int(network.config.get_text_config().vocab_size) - len(token_bytes)
    return [*token_bytes, *([b""] * max(0, missing))]


def _check_folder(path: str) -> None:
    """Name a missing folder before a hub is asked for it."""
    if (path.startswith((".", "/", "~")) or path.count("/") > 1) and not Path(path).is_dir():
        raise ModelError(f"there is no model folder `{path}`", hint="check `--model`: a folder or a hub id")
