"""What a training does with spare memory: plain weights, and activations kept instead of computed twice."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from endmark.worker.models.weights import expand, free_memory

_SHARE = 0.5  # of the free memory; the rest is for gradients, the optimiser, and what is passing


def use_room(
    trainer: Any,  # noqa: ANN401
    longest: Mapping[str, Sequence[int]],
    *,
    batch_size: int,
    room: float | None = None,
) -> None:
    """Spend memory on speed, where there is enough of it; what is learned stays the same.

    A step computes activations a second time, and dequantises NF4 in each of its passes, only where the room is
    needed: on a small model both take longer than the step itself.

    Args:
        trainer: before its first step, with the adapter in its model.
        longest: of the examples that it learns from, as its collator takes it.
        batch_size: sequences at once.
        room: bytes that may be taken; by default half of what is free.
    """
    network = trainer.model
    left = free_memory(network.device) * _SHARE if room is None else room
    batch = {name: tensor.to(network.device) for name, tensor in trainer.data_collator([longest]).items()}
    network.train()
    with trainer.compute_loss_context_manager():
        left -= kept_bytes(network, batch) * batch_size
    if left < 0:
        return
    for name in ("gradient_checkpointing", "activation_checkpointing"):  # the newer transformers' name for it
        if hasattr(trainer.args, name):
            setattr(trainer.args, name, False)
    expand(network, left)


def kept_bytes(network: Any, batch: Mapping[str, Tensor]) -> int:  # noqa: ANN401 - a module
    """Return how many bytes a forward pass keeps for its backward pass, weights left out.

    Args:
        batch: what the network takes, with `labels`, so that the loss is among it.
    """
    weights = {item.untyped_storage().data_ptr() for item in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = network(**batch, use_cache=False)  # held until all is counted: freed room would be counted once
    del graph
    return sum(kept.values())
