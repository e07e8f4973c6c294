"""What loading a model comes to: an engine, the tokeniser that feeds it, and what it runs on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.engines import OWN
from endmark.worker.engine.contract import InferenceEngine, MaskMemory, Runner
from endmark.worker.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Description:
    """What an engine runs on, for logs and `status`."""

    model: str
    adapter: str | None
    device: str
    weights: (
        str  # packed, expanded, fp8, fp8-original, bf16, or how many layers are; and whether the cache is in fp8
    )
    weight_bytes: int
    kv_tokens: int  # tokens that the KV cache holds
    engine: str = OWN  # one of `jobs.engines.ENGINES`


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine with the tokeniser that feeds it."""

    engine: InferenceEngine
    tokenizer: Any
    description: Description

    @property
    def mask_memory(self) -> Callable[[int], NDArray[np.int32]] | None:
        """What makes room for masks, as of `worker.engine.contract.MaskMemory`; None where any memory will do."""
        return None


@dataclass(frozen=True, slots=True)
class OwnEngine(LoadedEngine):
    """Our own engine; while it has no work, others may be built over its runner, as the benchmarks do."""

    engine: Engine
    runner: Runner

    @property
    def mask_memory(self) -> Callable[[int], NDArray[np.int32]] | None:
        """What makes room for masks; None where any memory will do."""
        return self.runner.mask_memory if isinstance(self.runner, MaskMemory) else None
