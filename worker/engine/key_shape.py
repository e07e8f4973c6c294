"""How many heads of keys and values a model has, and how wide they are, by its config."""

from typing import Any


def key_shape(config: Any) -> tuple[int, int]:  # noqa: ANN401 - the config of any model
    """Return (KV heads, head size) of a text model's config; older ones name neither."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads), int(size)
