"""The engine that serves a model: Endmark's own, or vLLM's, where that is wanted or ours refuses the model."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch

from endmark.jobs.engines import AUTO, OWN, VLLM, EngineChoice, has_vllm
from endmark.jobs.errors import MissingDependency, Refusal
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.models.loader import load_engine

log = logging.getLogger("worker")


def load_chosen(
    choice: EngineChoice,
    model: str,
    *,
    told: Callable[[str], None] = log.warning,
    **loading: Any,  # noqa: ANN401
) -> LoadedEngine:
    """Load a model under the engine that was chosen; under `auto` under vLLM's where ours refuses it.

    Args:
        choice: what was asked for.
        model: a hub id, a folder, or `demo`.
        told: takes why it is not the engine that a user would expect.
        loading: what `load_engine` takes.

    Raises:
        Refusal: Endmark's engine cannot run it, and vLLM is not installed or not wanted.
        ModelError, SpecError: as `load_engine` says.
        UsageError: the options do not go together.
        MissingDependency: vLLM is wanted and not installed.
    """
    weights = loading.get("weights", AUTO)
    choice.check(weights)
    name = choice.name(weights)
    if name != VLLM:
        try:
            return load_engine(model, **loading)
        except Refusal as refusal:
            if name == OWN or not has_vllm():
                raise Refusal(str(refusal), hint=_way_out(refusal)) from refusal
            told(f"vLLM's engine serves: {refusal}")
        _forget()
    return _load_vllm(choice, model, told=told, **loading)


def _way_out(refusal: Refusal) -> str:
    """Return how to run a model that ours refuses."""
    if has_vllm():
        return f"{refusal.hint}; vLLM's engine may run it: leave `--engine {OWN}` out"
    return f"{refusal.hint}; vLLM's engine may run it: {MissingDependency('', VLLM).hint}"


def _forget() -> None:
    """Give back what a model that was refused after its trial step held of the card."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _load_vllm(choice: EngineChoice, model: str, **loading: Any) -> LoadedEngine:  # noqa: ANN401
    """Load a model under vLLM's engine."""
    from endmark.worker.vllm.loading import load_vllm_engine

    return load_vllm_engine(
        model,
        tensor_parallel=choice.tensor_parallel,
        pipeline_parallel=choice.pipeline_parallel,
        max_adapters=choice.max_adapters,
        executor=choice.executor,
        **loading,
    )
