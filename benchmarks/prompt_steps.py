"""What a step with prompts takes its host and its card: `python benchmarks/prompt_steps.py --model FOLDER`.

FOLDER holds a model, such as the 8B shape that `benchmarks/peers.py` writes. Each step is run captured, as the
engine does it, and launched kernel by kernel. Of both are printed milliseconds a step and those of the host,
whether their prompts end with the same probabilities of EOS, and of the captured one what its kernels take.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.plan import DecodePlan, PrefillRow, StepPlan
from endmark.worker.models.loader import load_engine

_WARM, _TIMES = 4, 8  # steps
_EMPTY_QUEUE = 3  # steps that are launched before the host may wait for the card
_KERNELS = 12  # that are printed


def prompt(slot: int, pages: range, end: int, *, cached: int = 0, left: int = 0) -> PrefillRow:
    """Return a row's tokens from `cached` to `end`, behind which so many are left."""
    ids = [5 + (at * 7 + slot) % 50 for at in range(end + left)]
    return PrefillRow(slot, ids, cached, pages, 0, 0, Sampling(), ScoreNumbers(), slot, left=left)


def plan(runner: CudaRunner, rows: int, tokens: int, length: int, cached: int = 0) -> StepPlan | None:
    """Return a step with running rows and as many prompts as there is room for; None if pages do not suffice.

    Args:
        runner: whose slots are filled.
        rows: that run, of so many `tokens` each.
        length: of the prompts, behind so many tokens that are `cached`.
    """
    count = max(1, (runner.captured_tokens - rows) // length)
    own, new = (-(-(size + 1) // runner.page_size) for size in (tokens, cached + length))
    rows = min(rows, runner.max_rows - count)
    if rows * own + count * new > runner.num_pages:
        return None
    begun = [prompt(slot, range(slot * own, slot * own + own), 1, left=tokens - 1) for slot in range(rows)]
    runner.read(runner.launch(StepPlan(prefill=begun)))  # so their pages are known
    prompts = [
        prompt(rows + index, range(at, at + new), cached + length, cached=cached)
        for index, at in enumerate(range(rows * own, rows * own + count * new, new))
    ]
    return StepPlan(DecodePlan(list(range(rows)), [tokens] * rows, [1] * rows, [1] * rows), prompts)


def timed(runner: CudaRunner, step: StepPlan) -> tuple[float, float, list[float]]:
    """Return milliseconds a step, those of the host, and the probabilities of EOS behind the prompts."""
    for _ in range(_WARM):
        runner.read(runner.launch(step))
    torch.cuda.synchronize()
    host, begun = [], time.perf_counter()
    for _ in range(_TIMES):
        before = time.perf_counter()
        ticket = runner.launch(step)
        host.append(time.perf_counter() - before)
    found = runner.read(ticket).eos_probs[len(step.decode.slots) :]
    return (time.perf_counter() - begun) / _TIMES * 1e3, statistics.median(host[:_EMPTY_QUEUE]) * 1e3, found


def kernels(runner: CudaRunner, step: StepPlan) -> Iterator[str]:
    """Yield in lines what the kernels of a step take."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        runner.read(runner.launch(step))
        torch.cuda.synchronize()
    found = sorted(seen.key_averages(), key=lambda item: -item.device_time_total)
    yield f"  kernels take {sum(item.device_time_total for item in found) / 1e3:.1f} ms:"
    for item in found[:_KERNELS]:
        yield f"  {item.device_time_total / 1e3:9.3f} ms {item.count:>4} times {item.key[:80]}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder")
    parser.add_argument("--weights", default="auto", help="auto, packed or fp8")
    parser.add_argument("--kv-cache", default="auto", help="auto or fp8")
    options = parser.parse_args()
    loaded = load_engine(options.model, device="cuda", kv_cache=options.kv_cache, weights=options.weights)
    runner = loaded.runner
    assert isinstance(runner, CudaRunner), "its log says why it takes the plain path"
    captured = runner._prompts
    for rows, tokens, length, cached in (
        (256, 340, 124, 0),
        (900, 340, 124, 0),
        (60, 290, 290, 0),
        (120, 5888, 0, 3696),
    ):
        length = length or runner.captured_tokens - rows
        step = plan(runner, rows, tokens, length, cached)
        name = f"{rows} rows of {tokens}, prompts of {length} behind {cached}"
        if step is None:
            print(f"{name}: no room", flush=True)
            continue
        took, host, found = timed(runner, step)
        print(f"{name}: captured {took:.1f} ms a step, the host {host:.1f}", flush=True)
        print(*kernels(runner, step), sep="\n", flush=True)
        runner._prompts = None
        took, host, whole = timed(runner, step)
        runner._prompts = captured
        print(f"  launched {took:.1f} ms a step, the host {host:.1f}; same: {found == whole}", flush=True)


if __name__ == "__main__":
    main()
