"""How good the spots are that a landing takes: `python benchmarks/landing.py` prints it for one strategy.

Each prompt is answered without the strategy, to see what the model thought of ending at every landing spot of the
window, and with it under each budget. The text is the same up to where the strategy ends it, so the model's own
log EOS probability there can be compared with the best spot's. The window begins where the strategy does and ends
with the first spot from its `firm` on. Rows that end by themselves, run in a loop, or have no spot do not count.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from prompts import encode, read_prompts

from endmark.jobs.endings import Ending, ending_of
from endmark.jobs.landing import spots
from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import as_percent
from endmark.jobs.strategies import Strategy, build_strategies
from endmark.jobs.vocabulary import EosSource
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.text import AnswerText
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.models.loader import load_engine

EVERYDAY = Path(__file__).resolve().parents[1] / "examples" / "everyday.csv"


def answers(
    loaded: LoadedEngine, prompts: Sequence[str], spec: GenerationSpec, strategies: tuple[Strategy, ...]
) -> list[Finished]:
    """Return the traced answers to the prompts, in order."""
    engine = loaded.engine
    for key, prompt in enumerate(encode(loaded, prompts, spec)):
        request = Request(
            key, prompt.token_ids, spec.max_new_tokens, spec.sampling, strategies, stream=key, trace=True
        )
        engine.add(request)
    done: dict[int, Finished] = {}
    while engine.has_work:
        done.update((finished.key, finished) for finished in engine.step())
    return [done[key] for key in range(len(prompts))]


def nats_below(loaded: LoadedEngine, free: Finished, landed: Finished, start: float, firm: float) -> float | None:
    """Return by how much the log EOS probability where a row was landed is below that of the best spot.

    Args:
        loaded: the engine.
        free: the answer without the strategy.
        landed: the answer with it.
        start: the token after which the window begins.
        firm: the token from which on its last spot is looked for.

    Returns:
        None where the row does not count.
    """
    if landed.verdict.eos_source is not EosSource.BOOSTED:
        return None
    probs = free.trace.probs or ()
    lengths = AnswerText(loaded.engine.vocabulary, free.token_ids).lengths
    later = [count for count in spots(free.text, lengths) if start < count < len(probs)]
    last = next((count for count in later if count >= firm), later[-1] if later else 0)
    window = [count for count in later if count <= last]
    taken = len(landed.token_ids)
    if taken not in window or ending_of(free.text[: lengths[last - 1]]) is Ending.LOOP:
        return None
    return math.log(max(probs[count] for count in window) / probs[taken])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--dataset", type=Path, default=EVERYDAY)
    parser.add_argument("--rows", type=int, default=48, help="prompts, taken evenly from the dataset")
    parser.add_argument("--strategy", default="soft-landing")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--budgets", default="96,128,160,192", help="new tokens, joined by commas")
    options = parser.parse_args()
    every = read_prompts(options.dataset)
    prompts = every[:: max(1, len(every) // options.rows)][: options.rows]
    budgets = [int(budget) for budget in options.budgets.split(",")]
    loaded = load_engine(options.model, device="cuda" if torch.cuda.is_available() else "cpu")
    spec = GenerationSpec(max_new_tokens=max(budgets), sampling=Sampling(temperature=options.temperature))
    strategies = build_strategies([options.strategy])
    free = answers(loaded, prompts, spec, ())
    print(f"{len(prompts)} prompts, temperature {options.temperature:g}, `{options.strategy}`\n")
    print("| new tokens | rows landed | nats below the best spot: mean | median | share above 1 |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    together: list[float] = []
    for budget in budgets:
        numbers = strategies[0].score_numbers(budget)
        nats = [
            gap
            for before, after in zip(
                free, answers(loaded, prompts, replace(spec, max_new_tokens=budget), strategies), strict=True
            )
            if (gap := nats_below(loaded, before, after, numbers.start, numbers.full)) is not None
        ]
        print(line(str(budget), nats), flush=True)
        together += nats
    print(line("all", together))


def line(name: str, nats: Sequence[float]) -> str:
    """Return a line of the table."""
    if not nats:
        return f"| {name} | 0 | | | |"
    above = sum(gap > 1 for gap in nats) / len(nats)
    figures = f"{statistics.mean(nats):.2f} | {statistics.median(nats):.2f} | {as_percent(above)}"
    return f"| {name} | {len(nats)} | {figures} |"


if __name__ == "__main__":
    main()
