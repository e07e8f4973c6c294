"""What an fp8 KV cache changes in the bundled model's greedy answers: `python benchmarks/fp8_cache.py` on a GPU.

The same prompts run with the cache in 16 bits and in fp8. Steps count as long as both answers have the same text
before them: how often both choose the same token, and how far their EOS probabilities are apart.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from prompts import encode, read_prompts

from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spelling import as_percent
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy answer: the token chosen at each step, the end token too, and the EOS probability before it."""

    tokens: tuple[int, ...]
    probs: tuple[float, ...]


def answers(model: str, kv_cache: str, prompts: Sequence[str], budget: int, device: str = "cuda") -> list[Answer]:
    """Return the answers with one kind of cache, in the prompts' order."""
    loaded = load_engine(model, device=device, weights="expanded", kv_cache=kv_cache)
    for key, prompt in enumerate(encode(loaded, prompts)):
        loaded.engine.add(Request(key=key, prompt_token_ids=prompt.token_ids, max_new_tokens=budget, trace=True))
    found = {}
    while loaded.engine.has_work:
        for item in loaded.engine.step():
            end = (-1,) if item.verdict.ended_with_eos else ()
            found[item.key] = Answer((*item.token_ids, *end), item.trace.probs or ())
    return [found[key] for key in range(len(prompts))]


def compare(pairs: Iterable[tuple[Answer, Answer]]) -> str:
    """Return the figures of answers with 16 bits and with fp8."""
    equal, rows, same = 0, 0, 0
    apart: list[float] = []
    for usual, small in pairs:
        rows += 1
        equal += usual.tokens == small.tokens
        steps = zip(usual.tokens, small.tokens, usual.probs, small.probs, strict=False)
        for token, other, prob, near in steps:
            apart.append(abs(prob - near))
            same += token == other
            if token != other:
                break
    return (
        f"{same:,} of {len(apart):,} steps choose the same token ({as_percent(same / len(apart), 3)}); "
        f"EOS probability apart by {sum(apart) / len(apart):.2e} on average, {max(apart):.2e} at most; "
        f"{equal} of {rows} answers equal"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("it needs a GPU that has the fp8 type")
    prompts = read_prompts()
    usual, again, small = (
        answers(options.model, kind, prompts, options.max_new_tokens) for kind in ("auto", "auto", "fp8")
    )
    print(f"16 bits twice:     {compare(zip(usual, again, strict=True))}")
    print(f"16 bits and fp8:   {compare(zip(usual, small, strict=True))}")


if __name__ == "__main__":
    main()
