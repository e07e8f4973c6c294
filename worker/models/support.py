"""Which models the engine can run: those that it would get wrong are refused, with the reason."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from endmark.jobs.errors import Refusal
from endmark.worker.models.rotary import recorded_rotary, rotary_limit

TRIAL = "endmark_trial"  # the name in transformers' registry
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_HEADS = {"head_dim", "num_attention_heads", "num_key_value_heads"}
HINT = "choose a model like Llama, Mistral, Qwen2, Qwen3 or Gemma"


@dataclass(slots=True)
class Trial:
    """What the layers of a model asked of the attention in one step."""

    kv_heads: int
    head_size: int
    windows: dict[int, int | None] = field(default_factory=dict)  # by layer
    refusals: list[str] = field(default_factory=list)


def own_quantisation(config: PreTrainedConfig) -> dict[str, Any] | None:
    """Return what a checkpoint says of its quantisation, as its `quantization_config`; None where it has none."""
    stored = getattr(config.get_text_config(), "quantization_config", None)
    stored = stored or getattr(config, "quantization_config", None)
    return stored if isinstance(stored, dict) or stored is None else dict(stored.to_dict())


def check_quantised(config: PreTrainedConfig) -> None:
    """Refuse weights that were quantised otherwise than by bitsandbytes: they would be read as something else.

    Raises:
        Refusal: naming how they were.
    """
    values = own_quantisation(config)
    if values is None or values.get("load_in_4bit") or values.get("load_in_8bit"):
        return
    method = values.get("quant_method")
    if method != "bitsandbytes":
        raise Refusal(
            f"Endmark cannot run weights that are quantised as `{method}`: its engine takes those of bitsandbytes",
            hint="give the model that they were made of, which it quantises itself",
        )


def check_kind(network: PreTrainedModel) -> None:
    """Refuse a model whose layers are of a kind that the engine has not; its weights are not looked at.

    Raises:
        Refusal: a state-space layer, attention in chunks, ALiBi or the like.
    """
    kind = type(network).__name__
    config = network.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if others:
        names = ", ".join(f"`{name}`" for name in sorted(others))
        raise Refusal(f"Endmark cannot run {kind}: it has layers of the kind {names}", hint=HINT)
    uneven = _HEADS & set(getattr(config, "per_layer_attributes", None) or ())
    if uneven or getattr(config, "num_kv_shared_layers", None):
        raise Refusal(
            f"Endmark cannot run {kind}: its layers differ in their heads, or share keys and values", hint=HINT
        )
    if not network._supports_attention_backend:
        raise Refusal(
            f"Endmark cannot run {kind}: transformers does not mark its attention as one that can be exchanged",
            hint=HINT,
        )


@torch.inference_mode()
def check_attention(network: PreTrainedModel, *, layers: int, kv_heads: int, head_size: int, context: int) -> int:
    """Take a step of two tokens and refuse a model that asks for more than the engine's attention does.

    Both paths see a token's own row up to that token, or a window of it, and no mask: a model that works through
    its mask, attends to later tokens, or keeps keys and values of another shape would be answered wrongly.

    Returns:
        The most tokens that a row may have, at most `context`; see `rotary_limit`.

    Raises:
        Refusal: it does one of those, or not every layer attends.
    """
    config = network.config.get_text_config()
    usual, trial = config._attn_implementation, Trial(kv_heads, head_size)
    config._attn_implementation = TRIAL
    try:
        ids = torch.tensor([[0, 1]], device=network.device)
        with recorded_rotary(network) as calls:
            network(input_ids=ids, position_ids=ids, use_cache=False, logits_to_keep=1, paged=trial)
    finally:
        config._attn_implementation = usual
    if not trial.refusals and sorted(trial.windows) != list(range(layers)):
        trial.refusals.append(
            f"{len(trial.windows)} of its {layers} layers hand Endmark's batch to their attention"
        )
    if _window_is_lost(config, trial, context):
        trial.refusals.append(f"its window of {config.sliding_window} tokens is in its mask alone")
    if trial.refusals:
        raise Refusal(f"Endmark cannot run {type(network).__name__}: {trial.refusals[0]}", hint=HINT)
    return rotary_limit(calls, context, network.device)


def _window_is_lost(config: PreTrainedConfig, trial: Trial, context: int) -> bool:
    """Whether a layer has a window, shorter than the context, that it does not tell its attention."""
    window = getattr(config, "sliding_window", None)
    if window is None or window >= context:
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return not any(trial.windows.values())
    return any(trial.windows.get(layer) is None for layer, kind in enumerate(kinds) if kind == "sliding_attention")


def _note(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    paged: Trial | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Note what a layer asks for; attend to nothing."""
    del scaling, dropout, softcap
    if paged is not None:
        reason = _refusal(module, key, value, attention_mask, paged, others)
        if reason is not None:
            paged.refusals.append(reason)
        paged.windows[int(module.layer_idx)] = sliding_window  # type: ignore[arg-type]
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None


def _refusal(
    module: nn.Module, key: Tensor, value: Tensor, mask: Tensor | None, trial: Trial, others: dict[str, object]
) -> str | None:
    """Return why a layer's attention is not one that the engine has; None if it is."""
    wanted = (trial.kv_heads, trial.head_size)
    for name, item in (("keys", key), ("values", value)):
        if (item.shape[1], item.shape[3]) != wanted:
            found = f"{item.shape[1]} heads of {item.shape[3]}"
            return f"its {name} are {found}, where its config says {wanted[0]} of {wanted[1]}"
    if mask is not None:
        return "its attention works through a mask of its own"
    if others.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        return "its attention sees later tokens"
    if int(module.layer_idx) in trial.windows:  # type: ignore[arg-type]
        return "it attends more than once on one cache"
    extra = [name for name, given in others.items() if isinstance(given, Tensor) and name != "position_ids"]
    return f"its attention takes `{extra[0]}`, which Endmark's has not" if extra else None


AttentionInterface.register(TRIAL, _note)
