"""A step that is recorded once and run many times: a captured graph on a card."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Replay = Callable[[], object]


class Recorder:
    """Records steps whose graphs share one pool of memory.

    Args:
        device: of the steps. Where Triton interprets its kernels that is the CPU: a recorded step is called again.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        # Of its own: once any graph of a stream goes, torch frees the workspaces of cuBLAS that all of them read.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def record(self, step: Callable[[], None]) -> Replay:
        """Run a step, and return what runs it again on whatever stands in its inputs then."""
        if self._stream is None:
            step()
            return step
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step()  # compiles kernels and makes the libraries' workspaces, which cannot be captured
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with collection_waits(), capture:
            step()
        return _Captured(graph, step)


@dataclass(frozen=True, slots=True)
class _Captured:
    """A captured step; a graph holds addresses alone, so what it reads and writes is kept beside it."""

    graph: torch.cuda.CUDAGraph
    step: Callable[[], None]

    def __call__(self) -> None:
        self.graph.replay()


@contextmanager
def collection_waits() -> Iterator[None]:
    """Collect no garbage meanwhile: the graphs of an engine before, if destroyed in a capture, invalidate it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
