"""Tokens a second of the engine and of its peers on the same work, in one run.

`python benchmarks/throughput.py` takes 256 rows of mixed lengths through the bundled model on the CPU, by the
engine and by left-padded `model.generate`, and prints both and the ratio: how often the engine is as fast.
`--gpu` takes the published workload through a model of Llama-2-7B's shape with random weights, built in place.
"""

import argparse

import torch
from on_cpu import Measured, measure

from endmark.jobs.settings import DEMO_MODEL


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument(
        "--gpu", action="store_true", help="the 7B shape on CUDA; --rows 1000 is the published work"
    )
    parser.add_argument(
        "--systems",
        default="generate,packed,expanded,mixed,in-order,fp8",
        help="with --gpu, which to run; `step`, too: the kernels of a step",
    )
    options = parser.parse_args()
    if options.gpu:
        from on_gpu import report  # needs CUDA and Triton

        report(options.systems.split(","), options.rows)
        return
    torch.set_num_threads(options.threads)
    print(f"{options.rows} rows, seed {options.seed}, model `{options.model}`, {options.threads} threads, fp32")
    print(f"{'system':<52} {'tokens':>7} {'seconds':>8} {'tokens/s':>9} {'ratio':>6} {'CPU s':>12} {'ratio':>6}")
    first: Measured | None = None
    for measured in measure(options.model, options.rows, options.seed):
        first = first or measured
        print(
            f"{measured.system:<52} {measured.tokens:>7,} {measured.seconds:>8.1f} {measured.speed:>9,.0f}"
            f" {first.speed / measured.speed:>6.2f} {measured.processor_seconds:>12.1f}"
            f" {measured.processor_seconds / first.processor_seconds:>6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
