"""What answers of one prompt cost beside one prefill and decode, and log probabilities beside the same decode.

`python benchmarks/samples.py` shows it, on a CPU or a card.
"""

import itertools
import random
import time
from collections.abc import Iterable, Iterator

import click
import torch

from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine


@click.command()
@click.option("--model", default=DEMO_MODEL, show_default=True)
@click.option("--prompt", default=200, show_default=True, help="Tokens of the prompt.")
@click.option("--answer", default=64, show_default=True, help="Tokens of each answer; none ends before.")
@click.option("--samples", default=16, show_default=True)
@click.option("--logprobs", default=5, show_default=True, help="Best tokens that are told of each step.")
@click.option("--repeats", default=5, show_default=True, help="Runs, of which the median is printed.")
def main(model: str, prompt: int, answer: int, samples: int, logprobs: int, repeats: int) -> None:
    """Print the median shares, over runs with prompts of random tokens."""
    engine = load_engine(model, device="cuda" if torch.cuda.is_available() else "cpu").engine
    assert isinstance(engine, Engine)
    endless = Sampling(
        temperature=1.0, logit_bias=tuple((token_id, -100.0) for token_id in sorted(engine.eos_ids))
    )
    rng, keys = random.Random(0), itertools.count()
    known = [token_id for token_id in range(len(engine.vocabulary.token_bytes)) if token_id not in engine.eos_ids]
    shares, told = [], []
    for _ in range(repeats + 1):  # the first run warms up
        own, shared = (tuple(rng.choices(known[: len(known) // 2], k=prompt)) for _ in range(2))
        (one,) = _steps(engine, [Request(next(keys), own, 1, endless)])
        first, *decode = _steps(
            engine, [Request(next(keys), shared, answer, endless, stream=at) for at in range(samples)]
        )
        shares.append((first + sum(decode)) / (one + sum(decode)))
        _, *again = _steps(
            engine,
            [Request(next(keys), shared, answer, endless, stream=at, logprobs=logprobs) for at in range(samples)],
        )
        told.append(sum(again) / sum(decode))
        click.echo(f"one prefill {one:.3f} s, that of {samples} answers {first:.3f} s, decode {sum(decode):.3f} s")
    click.echo(f"{sorted(shares[1:])[repeats // 2]:.3f} times (decode + one prefill)")
    click.echo(f"with {logprobs} log probabilities a step {sorted(told[1:])[repeats // 2]:.3f} times the decode")


def _steps(engine: Engine, requests: Iterable[Request]) -> Iterator[float]:
    """Run requests to their ends; yield the seconds of each step."""
    for request in requests:
        engine.add(request)
    while engine.has_work:
        begun = time.perf_counter()
        engine.step()
        yield time.perf_counter() - begun


if __name__ == "__main__":
    main()
