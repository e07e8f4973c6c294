"""A layer's products in bf16 and in fp8, and what scales their inputs: `python benchmarks/products.py` on a GPU.

The layer is that of an 8B shape. Each time is the median over replays of a captured graph that runs the same part
of four layers with weights of their own, so that no cache holds them. Errors are against the same product in fp64.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from card_time import milliseconds
from torch import Tensor, nn

from endmark.worker.engine.cuda.kernels.gated import SILU, gated, scaled_gated
from endmark.worker.engine.cuda.kernels.norms import rms_norm, scaled_rms_norm
from endmark.worker.engine.cuda.kernels.scaling import scale_rows
from endmark.worker.engine.fp8 import Fp8Linear, Scaled, scaled_rows

HIDDEN, WIDE, QKV = 4096, 14336, 6144
SIZES = {"qkv": (HIDDEN, QKV), "o": (HIDDEN, HIDDEN), "gate and up": (HIDDEN, 2 * WIDE), "down": (WIDE, HIDDEN)}
_LAYERS, _REPLAYS = 4, 9
_TURNS = 20  # of all layers, so that the card never waits for the host


def random(*shape: int, spread: float = 1.0) -> Tensor:
    """Return numbers in bf16."""
    return (torch.randn(*shape, device="cuda") * spread).bfloat16()


@dataclass
class Layers:
    """The weights of some layers in both types, by the product's name."""

    plain: dict[str, list[Tensor]] = field(default_factory=dict)
    fp8: dict[str, list[Fp8Linear]] = field(default_factory=dict)

    @classmethod
    def build(cls) -> "Layers":
        """Make them of random numbers."""
        made = cls()
        for name, (inputs, outputs) in SIZES.items():
            made.plain[name] = [random(outputs, inputs, spread=inputs**-0.5) for _ in range(_LAYERS)]
            made.fp8[name] = [Fp8Linear(scaled_rows(item), None, torch.bfloat16) for item in made.plain[name]]
        return made


def microseconds(work: Callable[[int], object]) -> float:
    """Return what one call takes on the card, the median of replays; it is given the number of its layer."""
    for layer in range(_LAYERS):
        work(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(_LAYERS):
            work(layer)
    return milliseconds(graph.replay, _REPLAYS) * 1e3 / _LAYERS


def sustained(count: int, layers: Layers, kind: str, seconds: float) -> float:
    """Return operations a second of all products of so many tokens, once they have been run for so long."""
    given = {name: random(count, inputs) for name, (inputs, _) in SIZES.items()}
    scaled = {name: scale_rows(x) for name, x in given.items()}

    def turns() -> None:
        for layer in [*range(_LAYERS)] * _TURNS:
            for name in SIZES:
                if kind == "fp8":
                    layers.fp8[name][layer](scaled[name])
                else:
                    nn.functional.linear(given[name], layers.plain[name][layer])

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        taken = milliseconds(turns, 1)
    work = 2 * count * _LAYERS * _TURNS * sum(inputs * outputs for inputs, outputs in SIZES.values())
    return work / taken * 1e3


def precise(layer: Fp8Linear, x: Scaled) -> Tensor:
    """Return the product whose sums are kept in fp32, not in the fewer bits of the multiplying units."""
    return torch._scaled_mm(
        x.values, layer.weight.t(), scale_a=x.scale, scale_b=layer.scale, out_dtype=torch.bfloat16
    )


def rows(count: int, layers: Layers) -> Iterator[tuple[str, float, float, float | None]]:
    """Yield for each part its name, and microseconds in bf16, in fp8 and in fp8 with precise sums."""
    for name, (inputs, _) in SIZES.items():
        x = random(count, inputs)
        given = scale_rows(x)
        yield (
            name,
            microseconds(lambda layer, x=x, name=name: nn.functional.linear(x, layers.plain[name][layer])),
            microseconds(lambda layer, given=given, name=name: layers.fp8[name][layer](given)),
            microseconds(lambda layer, given=given, name=name: precise(layers.fp8[name][layer], given)),
        )
    x, residual, weight, both = (
        random(count, HIDDEN),
        random(count, HIDDEN),
        random(HIDDEN),
        random(count, 2 * WIDE),
    )
    how = {"offset": False, "residual": residual}
    yield (
        "norm",
        microseconds(lambda _: rms_norm(x, weight, 1e-5, **how)),
        microseconds(lambda _: scaled_rms_norm(x, weight, 1e-5, **how)),
        None,
    )
    yield (
        "gate",
        microseconds(lambda _: gated(both, SILU)),
        microseconds(lambda _: scaled_gated(both, SILU)),
        None,
    )
    yield "scaling of what attention gives", 0.0, microseconds(lambda _: scale_rows(x)), None


def errors(layers: Layers) -> Iterator[tuple[str, float, float]]:
    """Yield each product's error, and that with precise sums, against the same fp8 numbers in fp64."""
    for name, (inputs, _) in SIZES.items():
        layer = layers.fp8[name][0]
        given = scale_rows(random(64, inputs))
        weight = Scaled(layer.weight.data, layer.scale.view(-1, 1)).numbers().double()
        want = given.numbers().double() @ weight.T
        yield (
            name,
            *(
                ((got.double() - want).norm() / want.norm()).item()
                for got in (layer(given), precise(layer, given))
            ),
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", default="1,16,64,256,1024,8192", help="tokens multiplied at once, joined by commas"
    )
    parser.add_argument("--sustained", type=float, default=0.0, help="seconds for a rate under full power")
    options = parser.parse_args()
    with torch.inference_mode():
        torch.manual_seed(0)
        layers = Layers.build()
        print("| tokens | part | bf16, us | fp8, us | faster by | fp8 with precise sums, us |")
        print("| ---: | --- | ---: | ---: | ---: | ---: |")
        for count in map(int, options.rows.split(",")):
            plain = small = 0.0
            for name, usual, fp8, exact in rows(count, layers):
                plain += usual * (2 if name == "norm" else 1)
                small += fp8 * (2 if name == "norm" else 1)
                shown = "" if exact is None else f"{exact:.1f}"
                print(f"| {count} | {name} | {usual:.1f} | {fp8:.1f} | {usual / fp8:.2f} | {shown} |", flush=True)
            print(
                f"| {count} | all, with two norms | {plain:.1f} | {small:.1f} | {plain / small:.2f} | |",
                flush=True,
            )
        for count in map(int, options.rows.split(",") if options.sustained else ()):
            for kind in ("bf16", "fp8"):
                rate = sustained(count, layers, kind, options.sustained)
                print(f"{count} tokens in {kind}, sustained: {rate / 1e12:.0f} TFLOP/s", flush=True)
        for name, fast, exact in errors(layers):
            print(f"error of {name}: {fast:.2e}, with precise sums {exact:.2e}", flush=True)


if __name__ == "__main__":
    main()
