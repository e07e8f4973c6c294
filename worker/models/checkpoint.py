"""Whether a checkpoint's files hold the model that its config describes: all its weights, and no others."""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from endmark.jobs.errors import ModelError
from endmark.jobs.finetuning.tensors import Stored
from endmark.jobs.spelling import counted
from endmark.worker.engine.four_bits import Linear4bit, Params4bit

log = logging.getLogger(__name__)

_SHOWN = 5  # names in a message
# Parts of other tasks that a checkpoint may hold besides: towers that see or hear, heads that judge, draft layers.
_OTHER_PARTS = re.compile(
    r"vision|visual|image|audio|speech|talker|multi_?modal|projector|mtp|nextn|eagle|medusa|value_head|v_head|"
    r"score|classifier|reward"
)
# Buffers that older versions stored, and that a model makes by itself.
_STATE = re.compile(r"(?P<weight>.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
_BUFFERS = re.compile(r"(^|\.)((attn|attention|self_attention)\.(bias|masked_bias)|.*inv_freq|position_ids)$")


def check_complete(network: nn.Module, found: Mapping[str, Any], path: str) -> None:
    """Refuse a network of which a part was not in its files: transformers makes it up, at random.

    Args:
        network: loaded.
        found: what transformers says of the loading: `missing_keys`, `mismatched_keys` (name, shape in the file,
            shape in the model), `unexpected_keys`. A tied head is none of them.
        path: of the model, for the message.

    Raises:
        ModelError: a weight is missing, has another shape, or is left over where it changes what is computed.
    """
    missing = sorted(found["missing_keys"])
    if missing:
        tied = " or, where the head is the embedding, set `tie_word_embeddings` in its config.json"
        raise ModelError(
            f"the files of the model `{path}` lack {_counted(missing)}",
            hint="copy or download the model again" + (tied if missing == ["lm_head.weight"] else ""),
        )
    unlike = sorted(found["mismatched_keys"])
    if unlike:
        name, stored, wanted = unlike[0]
        raise ModelError(
            f"the model `{path}` has {_counted([item[0] for item in unlike])} of another shape than its config "
            f"says: `{name}` is {_shape(stored)} and should be {_shape(wanted)}",
            hint="give the folder the config.json that its weights were saved with",
        )
    beyond = sorted(name for name in found["unexpected_keys"] if not _BUFFERS.search(name))
    mattering = [name for name in beyond if not _OTHER_PARTS.search(first_unknown(network, name))]
    if mattering:
        raise ModelError(
            f"the files of the model `{path}` hold {_counted(mattering)} that its config has no place for, so it "
            "would be computed without them",
            hint="give the folder the config.json that its weights were saved with",
        )
    if beyond:
        log.info("left out of `%s`, being no part of its text model: %s", path, _counted(beyond))


def check_packed_files(stored: Mapping[str, Stored], path: str) -> None:
    """Refuse files in which a 4-bit weight lacks the numbers that it is unpacked with, or is itself not there.

    Args:
        stored: the tensors of all files. Those of an unpacked model pass.
        path: of the model, for the message.

    Raises:
        ModelError: naming what is missing.
    """
    states = {match["weight"]: name for name in stored if (match := _STATE.fullmatch(name))}
    lacking = [name for weight in states for name in (weight, f"{weight}.absmax", f"{weight}.quant_map")]
    packed = [name.removesuffix(".absmax") for name in stored if name.endswith(".absmax")]
    lacking += [f"{weight}.quant_state" for weight in packed if weight not in states]
    lacking = sorted({name for name in lacking if name not in stored})
    if lacking:
        raise ModelError(
            f"the files of the model `{path}` lack {_counted(lacking)}", hint="copy or download the model again"
        )


def check_packed(network: nn.Module, path: str) -> None:
    """Refuse packed layers of another shape than the config says: transformers does not compare those.

    Raises:
        ModelError: naming the first of them.
    """
    for name, module in network.named_modules():
        if not isinstance(module, Linear4bit):
            continue
        weight, wanted = module.weight, (module.out_features, module.in_features)
        assert isinstance(weight, Params4bit)
        shape, count = tuple(weight.quant_state.shape), weight.numel() * weight.element_size()
        needed = -(-module.out_features * module.in_features // 2)
        if shape != wanted or count != needed:
            raise ModelError(
                f"the model `{path}` has a weight of another shape than its config says: `{name}.weight` is "
                f"{_shape(shape)} in {count:,} bytes and should be {_shape(wanted)} in {needed:,}",
                hint="give the folder the config.json that its weights were saved with",
            )


def first_unknown(network: nn.Module, name: str) -> str:
    """Return the first part of a tensor's dotted name at which the network has no module of that name."""
    module: nn.Module = network
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            return part
        module = children[part]
    return ""


def _counted(names: Collection[str]) -> str:
    """Return how many weights there are, and the first of their names."""
    shown = ", ".join(f"`{name}`" for name in list(names)[:_SHOWN])
    return f"{counted(len(names), 'weight')} ({shown}{', …' if len(names) > _SHOWN else ''})"


def _shape(shape: Collection[int]) -> str:
    """Return a shape in words."""
    return " x ".join(map(str, shape)) or "a single number"
