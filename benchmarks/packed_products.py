"""What packed weights cost a layer: `python benchmarks/packed_products.py` prints it (on a GPU).

The products of a layer of Llama-2-7B's shape, bf16, for 1 to 256 rows: 16-bit weights, packed ones unpacked in
registers, packed ones unpacked first, and bitsandbytes' own. More layers in turn than the card's cache
holds, in one CUDA graph; microseconds a layer, and the speed relative to 16 bits.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from card_time import milliseconds
from torch import Tensor, nn

from endmark.worker.engine.cuda.kernels.packed_product import packed_product, unpack
from endmark.worker.engine.cuda.packed import PackedLinear

_SHAPES = ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008))  # (out, in): qkv, o, gate and up, down
_LAYERS = 6  # 1.2 GB in 16 bits, 0.3 packed: several times the cache
_TURNS = 5
_KIND = torch.bfloat16


def layer_of(outputs: int, inputs: int) -> tuple[Tensor, Linear4bit, PackedLinear]:
    """Return a weight in 16 bits, and the same packed by bitsandbytes and laid out anew."""
    weight = torch.randn(outputs, inputs, device="cuda", dtype=_KIND) / 50
    made = []
    for _ in range(2):
        layer = Linear4bit(inputs, outputs, False, compute_dtype=_KIND, quant_type="nf4")
        layer.weight = Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4")
        made.append(layer.cuda())
    return weight, made[0], PackedLinear.of(made[1], _KIND)


def microseconds(product: Callable[[int, int], Tensor]) -> float:
    """Return what all products of a layer take, from the replays of a graph of all layers."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for shape in range(len(_SHAPES)):
            product(0, shape)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(_LAYERS):
            for shape in range(len(_SHAPES)):
                product(layer, shape)
    return milliseconds(graph.replay, _TURNS, dropped=2) * 1e3 / _LAYERS


@torch.inference_mode()
def measure(rows: Sequence[int]) -> None:
    """Print the table."""
    layers = [[layer_of(*shape) for shape in _SHAPES] for _ in range(_LAYERS)]
    print(
        "| rows | 16 bits, µs | packed | unpacked first | bitsandbytes | packed | unpacked first | bitsandbytes |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in rows:
        x = [torch.randn(count, inputs, device="cuda", dtype=_KIND) for _, inputs in _SHAPES]
        ways: tuple[Callable[[int, int], Tensor], ...] = (
            lambda layer, shape: nn.functional.linear(x[shape], layers[layer][shape][0]),  # noqa: B023
            lambda layer, shape: packed_product(x[shape], layers[layer][shape][2].packed),  # noqa: B023
            lambda layer, shape: nn.functional.linear(x[shape], unpack(layers[layer][shape][2].packed, _KIND)),  # noqa: B023
            lambda layer, shape: layers[layer][shape][1](x[shape]),  # noqa: B023
        )
        base, *others = map(microseconds, ways)
        cells = [f"{count}", f"{base:.0f}", *(f"{other:.0f}" for other in others)]
        print(f"| {' | '.join([*cells, *(f'{base / other:.2f}' for other in others)])} |", flush=True)


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,8,16,32,64,128,256", help="joined by commas")
    options = parser.parse_args()
    measure([int(part) for part in options.rows.split(",")])


if __name__ == "__main__":
    main()
