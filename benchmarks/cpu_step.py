"""A decode step on a CPU beside its bare matrix products: `python benchmarks/cpu_step.py` prints the ratio.

The products are those of the model's linear layers on as many rows, one layer after another: by `F.linear` on the
weights as the model has them, and with the weights laid out as the engine does. Steps and products take turns, and
medians are printed: of the clock, and of the processor's time, which a busy machine leaves nearly as it is.
"""

import argparse
import random
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from endmark.jobs.settings import DEMO_MODEL
from endmark.worker.engine.cpu.products import PackedLinear
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine, load_model, model_path
from endmark.worker.models.weights import expand


def decoding(model: str, weights: str, rows: int, context: int, steps: int) -> Engine:
    """Return an engine whose rows are all behind their prompts, with `steps` more tokens to make."""
    loaded = load_engine(model, device="cpu", weights=weights, max_rows=rows)
    engine = Engine(loaded.runner, loaded.engine.vocabulary, ())  # no token ends a row
    chosen = random.Random(7)
    known = len(loaded.tokenizer)
    for key in range(rows):
        prompt = [chosen.randrange(known) for _ in range(chosen.randrange(context * 3 // 4, context * 5 // 4))]
        engine.add(Request(key=key, prompt_token_ids=prompt, max_new_tokens=steps + 1))
    while engine.waiting:
        engine.step()
    return engine


def products_of(model: str, rows: int) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, PackedLinear]]]:
    """Return the inputs and weights of a step's products, as the model has them and laid out."""
    network = load_model(model_path(model), device="cpu")
    expand(network)
    plain = [module for module in network.modules() if isinstance(module, nn.Linear)]
    inputs = {width: torch.randn(rows, width) for width in {module.in_features for module in plain}}
    weights = [(inputs[module.in_features], module.weight.data) for module in plain]
    return weights, [(inputs[module.in_features], PackedLinear([module])) for module in plain]


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return the milliseconds of a call: by the clock, and of the processor."""
    begin, worked = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - begin) * 1e3, (time.process_time() - worked) * 1e3


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--weights", default="expanded", help="of the engine")
    parser.add_argument("--rows", type=int, default=18)
    parser.add_argument("--context", type=int, default=200, help="tokens of a row, about")
    parser.add_argument("--steps", type=int, default=40, help="that are measured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = decoding(options.model, options.weights, options.rows, options.context, options.steps + 1)
    plain, packed = products_of(options.model, options.rows)
    parts: dict[str, Callable[[], object]] = {
        "step": engine.step,
        "products by F.linear": lambda: [linear(x, weight) for x, weight in plain],
        "products with weights laid out": lambda: [product(x) for x, product in packed],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    for run in parts.values():
        run()  # the first pass pays for what is made once
    for _ in range(options.steps):
        for name, run in parts.items():
            times[name].append(timed(run))
    print(
        f"{options.rows} rows of {options.context} tokens, model `{options.model}`,"
        f" {options.weights} weights, {options.threads} threads"
    )
    print(f"{'':<32} {'ms':>8} {'step is':>8} {'CPU ms':>8} {'step is':>8}")
    step = [median(column) for column in zip(*times["step"], strict=True)]
    for name, each in times.items():
        clock, processor = (median(column) for column in zip(*each, strict=True))
        print(f"{name:<32} {clock:>8.1f} {step[0] / clock:>8.2f} {processor:>8.1f} {step[1] / processor:>8.2f}")


if __name__ == "__main__":
    main()
