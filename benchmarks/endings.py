"""How answers end under each strategy: `python benchmarks/endings.py` prints the tables.

One table for each temperature and budget, on one model and one dataset. The answers are made by the engine, rows
going on or starting again as a worker would let them; each is judged as a worker judges it.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from prompts import encode, read_prompts
from tables import STRATEGIES, write_tables

from endmark.jobs.errors import PromptTooLong
from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import as_percent
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Attempt, Ending, EosSource, StoredRow
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.models.loader import load_engine
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.rows import RowRun

EVERYDAY = Path(__file__).resolve().parents[1] / "examples" / "everyday.csv"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the rows ended under one strategy; shares of all rows."""

    natural: float
    boosted: float
    forced: float
    truncated: float
    loop: float  # the text ends in a repetition
    complete: float
    mean_tokens: float


def run_rows(loaded: LoadedEngine, spec: GenerationSpec, prompts: Sequence[str]) -> list[Attempt]:
    """Run every prompt to its last attempt; return those, judged, in order."""
    prompter, engine = Prompter(loaded.tokenizer), loaded.engine
    encoded = encode(loaded, prompts, spec)
    rows = [RowRun(StoredRow(index, (), 0, 0), prompt) for index, prompt in enumerate(encoded)]
    for key, row in enumerate(rows):
        engine.add(row.first_request(key))
    while engine.has_work:
        for finished in engine.step():
            row = rows[finished.key]
            row.conclude(finished)
            following = row.next_request(finished, finished.key, prompter)
            if following is not None:
                with suppress(PromptTooLong):  # nothing of the context is left: the row stays as it was
                    engine.add(following)
    return [row.outcome().attempts[-1] for row in rows]


def judge(attempts: Sequence[Attempt]) -> Outcome:
    """Return the shares of one strategy's rows."""

    def share(wanted: Iterable[bool]) -> float:
        return sum(wanted) / len(attempts)

    def source(kind: EosSource) -> float:
        return share(attempt.verdict.eos_source is kind for attempt in attempts)

    return Outcome(
        natural=source(EosSource.NATURAL),
        boosted=source(EosSource.BOOSTED),
        forced=source(EosSource.FORCED),
        truncated=share(attempt.verdict.truncated for attempt in attempts),
        loop=share(attempt.ending is Ending.LOOP for attempt in attempts),
        complete=share(attempt.complete for attempt in attempts),
        mean_tokens=statistics.mean(attempt.completion_tokens for attempt in attempts),
    )


def make_table(outcomes: dict[str, Outcome]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| strategy | natural EOS | boosted | forced | truncated | ends in a loop | complete | mean tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for text, outcome in outcomes.items():
        shares = (
            outcome.natural,
            outcome.boosted,
            outcome.forced,
            outcome.truncated,
            outcome.loop,
            outcome.complete,
        )
        cells = [f"`{text}`", *map(as_percent, shares), f"{outcome.mean_tokens:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def compare(loaded: LoadedEngine, prompts: Sequence[str], temperature: float, budget: int) -> dict[str, Outcome]:
    """Return how the prompts' answers end under each strategy."""
    outcomes = {}
    for text in STRATEGIES:
        spec = GenerationSpec(
            strategies=build_strategies([text]),
            max_new_tokens=budget,
            sampling=Sampling(temperature=temperature),
        )
        outcomes[text] = judge(run_rows(loaded, spec, prompts))
    return outcomes


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--name", help="what the docs call the model")
    parser.add_argument("--dataset", type=Path, default=EVERYDAY)
    parser.add_argument("--temperatures", default="0,0.7", help="joined by commas")
    parser.add_argument("--budgets", default="256", help="new tokens, joined by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", metavar="TABLES", help="put them into docs/strategies.md: `demo` or `real`")
    options = parser.parse_args()
    prompts = read_prompts(options.dataset)
    loaded = load_engine(options.model, device=options.device)
    parts = []
    for budget in map(int, options.budgets.split(",")):
        for temperature in map(float, options.temperatures.split(",")):
            table = make_table(compare(loaded, prompts, temperature, budget))
            parts.append(f"{budget} new tokens, temperature {temperature:g}:\n\n{table}")
            print(parts[-1], flush=True)
    note = (
        f"{len(prompts)} prompts of `examples/{options.dataset.name}`, model {options.name or options.model}, "
        f"{loaded.description.weights} NF4 weights on {options.device}."
    )
    print(note)
    if options.write:
        write_tables(options.write, "\n".join(parts) + "\n" + note + "\n")


if __name__ == "__main__":
    main()
