"""Running rows' attention beside prompts on a second stream: `python benchmarks/beside.py` on a GPU.

A layer of the 8B shape with 128 rows of 5,888 cached tokens and, behind 2,048 of its row, a prompt's piece. It
prints milliseconds of each part alone, of a step as the engine runs it, and of ways to run both at once: attention
beside attention inside a layer; the rows' whole layers beside the prompt's on another stream; and the same with
multiprocessors set apart for each (green contexts). Medians over four layers, so that no cache holds them.
"""

from collections.abc import Callable

import torch
from card_time import milliseconds as event_milliseconds
from products import HIDDEN, SIZES, random
from torch import Tensor, nn
from torch.cuda.green_contexts import GreenContext

from endmark.worker.engine.cuda.kernels.decode_attention import decode_attention
from endmark.worker.engine.cuda.kernels.gated import SILU, gated
from endmark.worker.engine.cuda.kernels.norms import rms_norm
from endmark.worker.engine.cuda.kernels.prefill_attention import TILE, Tiles, prefill_attention

_ROWS, _LENGTH, _BEFORE, _STEP = 128, 5888, 2048, 2048
_PIECE = _STEP - _ROWS
_HEADS, _KV_HEADS, _SIZE, _PAGE, _LAYERS = 32, 8, 128, 16, 4
_SCALE = _SIZE**-0.5
Work = Callable[[int], object]  # of the layer with that number


class Layers:
    """Weights, caches and inputs; each method is a part of one layer."""

    def __init__(self) -> None:
        pages = _LENGTH // _PAGE
        count = (_ROWS + 1) * pages  # the last row is the prompt's
        shape = count, _KV_HEADS, _PAGE, _SIZE
        self.caches = [(random(*shape), random(*shape)) for _ in range(_LAYERS)]
        self.weights = [
            {name: random(outputs, inputs, spread=inputs**-0.5) for name, (inputs, outputs) in SIZES.items()}
            for _ in range(_LAYERS)
        ]
        self.tables = torch.randperm(count, device="cuda").view(_ROWS + 1, pages).int()
        self.slots = torch.arange(_ROWS, device="cuda", dtype=torch.int32)
        self.lengths = torch.full_like(self.slots, _LENGTH - 1)
        self.queries = random(_STEP, _HEADS, _SIZE)
        self.out = torch.empty_like(self.queries)
        self.hidden, self.norm = random(_STEP, HIDDEN), random(HIDDEN)

    def rows_attend(self, layer: int) -> None:
        """Compute attention of the running rows."""
        common = self.tables, self.slots, self.lengths
        decode_attention(self.queries[:_ROWS], *self.caches[layer], *common, scale=_SCALE, out=self.out[:_ROWS])

    def prompt_attends(self, layer: int) -> None:
        """Compute attention of the prompt's piece."""
        begins = torch.arange(0, _PIECE, TILE, device="cuda", dtype=torch.int32)
        tiles = Tiles(torch.full_like(begins, _ROWS), begins, torch.full_like(begins, TILE), begins + _BEFORE)
        keys, values = self.caches[layer]
        prefill_attention(
            self.queries[_ROWS:], keys, values, self.tables, tiles, scale=_SCALE, out=self.out[_ROWS:]
        )

    def before(self, layer: int, count: int) -> None:
        """Compute what stands before attention, for so many tokens."""
        nn.functional.linear(self._normed(self.hidden[:count]), self.weights[layer]["qkv"])

    def after(self, layer: int, count: int) -> None:
        """Compute what stands behind attention, for so many tokens."""
        own = self.weights[layer]
        between = self._normed(nn.functional.linear(self.hidden[:count], own["o"]))
        nn.functional.linear(gated(nn.functional.linear(between, own["gate and up"]), SILU), own["down"])

    def rows(self, layer: int) -> None:
        """Compute the running rows' layer."""
        self.before(layer, _ROWS)
        self.rows_attend(layer)
        self.after(layer, _ROWS)

    def prompt(self, layer: int) -> None:
        """Compute the prompt's layer."""
        self.before(layer, _PIECE)
        self.prompt_attends(layer)
        self.after(layer, _PIECE)

    def products(self, layer: int) -> None:
        """Compute all of both but attention."""
        self.before(layer, _STEP)
        self.after(layer, _STEP)

    def step(self, layer: int, beside: torch.cuda.Stream | None = None) -> None:
        """Compute a step's layer, running rows' attention on a stream of its own where there is one."""
        self.before(layer, _STEP)
        here = torch.cuda.current_stream()
        other = beside or here
        other.wait_stream(here)
        with torch.cuda.stream(other):
            self.rows_attend(layer)
        self.prompt_attends(layer)
        here.wait_stream(other)
        self.after(layer, _STEP)

    def _normed(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.norm, 1e-5, offset=False, residual=x)[0]


def milliseconds(*chains: tuple[torch.cuda.Stream | None, Work], captured: bool = True) -> float:
    """Return what a layer takes when each chain runs on its stream, None being the present one."""
    main = torch.cuda.Stream()

    def once() -> None:
        here = torch.cuda.current_stream()
        for stream, work in chains:
            own = stream or here
            own.wait_stream(here)
            with torch.cuda.stream(own):
                for layer in range(_LAYERS):
                    work(layer)
        for stream, _ in chains:
            here.wait_stream(stream or here)

    with torch.cuda.stream(main):
        once()
        torch.cuda.synchronize()
        run: Callable[[], object] = once
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=main):
                once()
            run = graph.replay
        return event_milliseconds(run, 5) / _LAYERS


def tell(name: str, *chains: tuple[torch.cuda.Stream | None, Work], captured: bool = True) -> None:
    """Measure and print."""
    print(f"{milliseconds(*chains, captured=captured):7.3f} ms  {name}", flush=True)


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    layers, second = Layers(), torch.cuda.Stream()
    tell("attention of running rows", (None, layers.rows_attend))
    tell("attention of the prompt", (None, layers.prompt_attends))
    tell("products, norms and gate of both", (None, layers.products))
    tell("a step's layer as it is", (None, layers.step))
    tell("the same, attention beside attention", (None, lambda layer: layers.step(layer, second)))
    tell("running rows' layer alone", (None, layers.rows))
    tell("the prompt's layer alone", (None, layers.prompt))
    tell("both on two streams", (second, layers.rows), (None, layers.prompt))
    every = torch.cuda.get_device_properties(0).multi_processor_count
    for few in (24, 40):
        contexts = [GreenContext.create(num_sms=count) for count in (few, every - few)]
        small, large = (context.Stream() for context in contexts)
        tell(f"attention of running rows on {few} multiprocessors", (small, layers.rows_attend), captured=False)
        tell(f"the prompt's layer on {every - few}", (large, layers.prompt), captured=False)
        tell("both at once", (small, layers.rows_attend), (large, layers.prompt), captured=False)


if __name__ == "__main__":
    main()
