"""Smaller cards, played by a large one: `python benchmarks/small_card.py --cards 13b:24,7b:12,7b:16:old`.

A model of the size is built in NF4 and the card's memory but for so many GB is taken away; weights, rows and pages
are then chosen as a worker chooses them, and the published workload runs. The same rows once more with weights
expanded to 16 bits and all the memory, as many rows at once and as large a cache, tell what packed weights cost.
`old` is a card before Ampere: fp16, the plain path, no flash attention.
"""

import argparse
import gc
import time
from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import torch
from seven_b import SHAPE, build
from transformers import PreTrainedModel
from workload import Row, mixed_rows

from endmark.worker.engine.attention import PLAIN
from endmark.worker.engine.contract import Runner
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.building import Shape, build_runner
from endmark.worker.models.loader import compute_dtype
from endmark.worker.models.weights import apply_weights_mode

_SIZES = {
    "7b": {},
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
}
_CONTEXT_BYTES = 1 << 29  # of the driver on any card
_OLD = 7, 5  # Turing's compute capability
_WORDS = Vocabulary([b"x"] * SHAPE.vocab_size)


def take_away(left: float) -> torch.Tensor:
    """Take the card's memory but for so many bytes, until what is returned is dropped."""
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    return torch.empty(max(0, int(free - left)), dtype=torch.uint8, device="cuda")


def small_runner(network: PreTrainedModel, limit: float) -> tuple[Runner, str]:
    """Return the runner that a card of so many bytes would have, and the form of its weights."""
    shape = Shape.of(network, None, "auto")
    card = SimpleNamespace(total_memory=limit)
    with patch("torch.cuda.get_device_properties", return_value=card):
        reserve = shape.reserve
    weights = apply_weights_mode(network, "auto", reserve)
    return build_runner(network, {2}, _WORDS, shape.widened(), "auto"), weights


def expanded_runner(size: str, pages: int, rows: int) -> Runner:
    """Return a runner of the size with expanded weights, and as many pages and rows at once as another has."""
    network = build(PLAIN, sizes=_SIZES[size])
    apply_weights_mode(network, "expanded", 0)
    with patch.object(Shape, "pages", lambda _: pages):
        return build_runner(network, {2}, _WORDS, Shape.of(network, rows, "auto"), "auto")


def run(runner: Runner, rows: list[Row], seconds: float) -> tuple[float, float, int]:
    """Return tokens a second, rows in a step on average, and rows sent back for want of pages.

    Args:
        runner: of whatever engine ran before.
        rows: handed over at once.
        seconds: after which no further step begins.
    """
    engine = Engine(runner, _WORDS, frozenset())
    for key, row in enumerate(rows):
        prompt = row.prompt_token_ids
        engine.add(Request(key=key, prompt_token_ids=prompt, max_new_tokens=row.max_tokens, stream=key))
    torch.cuda.synchronize()
    begun = time.perf_counter()
    while engine.has_work and time.perf_counter() - begun < seconds:
        engine.step()
    torch.cuda.synchronize()
    taken = time.perf_counter() - begun
    return engine.row_steps / taken, engine.row_steps / engine.steps, engine.preemptions


def measure(size: str, gigabytes: float, rows: list[Row], seconds: float, *, old: bool) -> None:
    """Print what one card does with the rows; each run takes so many seconds at most."""
    name = f"{size} on {gigabytes:g} GB" + (", before Ampere" if old else "")
    limit = gigabytes * 2**30
    with ExitStack() as forced:
        if old:
            forced.enter_context(patch("torch.cuda.get_device_capability", return_value=_OLD))
            torch.backends.cuda.enable_flash_sdp(False)
            forced.callback(torch.backends.cuda.enable_flash_sdp, True)
        network = build(PLAIN, sizes=_SIZES[size], dtype=compute_dtype("cuda"))
        taken = take_away(limit - _CONTEXT_BYTES - torch.cuda.memory_allocated())
        runner, weights = small_runner(network, limit)
        run(runner, rows[:8], seconds / 4)  # kernels are compiled
        speed, at_once, back = run(runner, rows, seconds)
        print(
            f"{name}: weights {weights}, {runner.num_pages * runner.page_size:,} tokens of cache,"
            f" {speed:,.0f} tokens/s with {at_once:.0f} rows at once, {back} rows sent back",
            flush=True,
        )
    if old:
        return
    pages, many = runner.num_pages, min(runner.max_rows, max(1, round(at_once)))
    del network, runner, taken
    gc.collect()
    torch.cuda.empty_cache()
    runner = expanded_runner(size, pages, many)
    run(runner, rows[:8], seconds / 4)
    more, beside, _ = run(runner, rows, seconds)
    print(
        f"{name}: with expanded weights, all the memory and at most {many} rows {more:,.0f} tokens/s"
        f" with {beside:.0f} at once; packed is at {speed / more:.2f} of it",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", default="13b:24,7b:12,7b:16:old", help="size:GB, joined by commas")
    parser.add_argument("--seconds", type=float, default=20, help="of a run, at most")
    parser.add_argument("--rows", type=int, default=96, help="of the published workload")
    options = parser.parse_args()
    for card in options.cards.split(","):
        size, gigabytes, *kind = card.split(":")
        rows = mixed_rows(options.rows, 7, 32000)
        measure(size, float(gigabytes), rows, options.seconds, old=kind == ["old"])
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
