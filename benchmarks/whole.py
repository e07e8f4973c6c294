"""What `whole` promises, row by row beside `baseline`: `python benchmarks/whole.py --model FOLDER` prints it.

Both run the same prompts. An answer that baseline ends naturally before the landing window is to be the same to
the letter, unless it is a loop all the same; of those that it ends naturally in the window few may end sooner; and
where baseline does not loop, `whole` may not win by answering less.

Rows that the strategy takes back change the batch of the others. What that alone does is told at temperature 0: of
early answers that differ, how many part at a near tie (`near_ties.py`), and how many of them differ under baseline
itself, with no other rows beside them.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from endings import EVERYDAY, judge, run_rows
from near_ties import BEST, is_near_tie, movements, parting
from prompts import read_prompts

from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import as_percent
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Attempt, Ending, EosSource
from endmark.worker.models.loader import load_engine


def figures(before: Sequence[Attempt], after: Sequence[Attempt], window: int) -> dict[str, str]:
    """Return what is promised, measured on the same rows under baseline and under the strategy.

    Args:
        window: the token from which the strategy raises EOS.
    """
    pairs = list(zip(before, after, strict=True))
    natural = [pair for pair in pairs if pair[0].verdict.eos_source is EosSource.NATURAL]
    whole = [pair for pair in natural if pair[0].ending is not Ending.LOOP]
    early = early_pairs(before, after, window)
    late = [pair for pair in whole if pair[0].completion_tokens >= window]
    sound = [pair for pair in pairs if pair[0].ending is not Ending.LOOP]
    kept = sum(own.completion_tokens for _, own in sound) / max(
        1, sum(base.completion_tokens for base, _ in sound)
    )
    one, other = judge(before), judge(after)
    rewinds = [item.rewinds for item in after if item.rewinds]
    dropped = sum(item.rewound_tokens for item in after) / max(1, sum(item.completion_tokens for item in after))
    return {
        "complete": f"{as_percent(other.complete, 1)} (baseline {as_percent(one.complete, 1)})",
        "in a loop": f"{as_percent(other.loop, 1)} (baseline {as_percent(one.loop, 1)})",
        "natural ends": f"{as_percent(other.natural, 1)} (baseline {as_percent(one.natural, 1)})",
        "natural ends of baseline inside a loop": str(len(natural) - len(whole)),
        "natural before the window, the same to the letter": f"{_count(early, _same)} of {len(early)}",
        "natural in the window, ended sooner": f"{_count(late, _sooner)} of {len(late)}",
        "tokens kept where baseline does not loop": f"{kept:.2f} of {len(sound)} rows",
        "rows taken back": f"{len(rewinds)}, {sum(rewinds)} times",
        "tokens dropped": f"{as_percent(dropped, 1)} of those kept",
    }


def early_pairs(before: Sequence[Attempt], after: Sequence[Attempt], window: int) -> list[tuple[Attempt, Attempt]]:
    """Return what baseline ends naturally before the window, and not in a loop, with the answers beside it."""
    return [
        (base, own)
        for base, own in zip(before, after, strict=True)
        if base.verdict.eos_source is EosSource.NATURAL
        and base.ending is not Ending.LOOP
        and base.completion_tokens < window
    ]


def near_ties(before: Sequence[Attempt], after: Sequence[Attempt], window: int) -> str:
    """Tell of the early answers that differ in two greedy runs how many part at a near tie."""
    pairs = early_pairs(before, after, window)
    untouched = [pair for pair in zip(before, after, strict=True) if not pair[1].rewinds]
    largest = max((moved for pair in untouched for moved in movements(*pair)), default=0.0)
    found = [parting(*pair) for pair in pairs if not _same(*pair)]
    moved = ", ".join("?" if item is None or item.moved is None else f"{item.moved:.3f}" for item in found)
    ties = sum(is_near_tie(item, largest) for item in found)
    return f"{ties} of {len(found)} that differ (by {moved or '-'} nats; elsewhere up to {largest:.3f})"


def _count(pairs: Sequence[tuple[Attempt, Attempt]], which: Callable[[Attempt, Attempt], bool]) -> int:
    """Return for how many pairs something holds."""
    return sum(which(*pair) for pair in pairs)


def _same(base: Attempt, own: Attempt) -> bool:
    """Whether both answers are the same."""
    return base.text == own.text and base.verdict == own.verdict


def _sooner(base: Attempt, own: Attempt) -> bool:
    """Whether the second ends before the first."""
    return own.completion_tokens < base.completion_tokens


def main() -> None:
    """Measure, and print what is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--dataset", type=Path, default=EVERYDAY)
    parser.add_argument("--strategy", default="whole")
    parser.add_argument("--temperatures", default="0,0.7", help="joined by commas")
    parser.add_argument("--budget", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="add all answers of the strategy there, as JSON lines"
    )
    options = parser.parse_args()
    prompts, loaded = read_prompts(options.dataset), load_engine(options.model, device=options.device)
    landing = next(item for item in build_strategies([options.strategy]) if item.place.is_scores)
    window = int(landing.number("start") * options.budget)
    for temperature in map(float, options.temperatures.split(",")):
        specs = [
            GenerationSpec(
                strategies=build_strategies([strategy]),
                max_new_tokens=options.budget,
                sampling=Sampling(temperature=temperature),
                logprobs=BEST,
            )
            for strategy in ("baseline", options.strategy)
        ]
        found = [run_rows(loaded, spec, prompts) for spec in specs]
        print(
            f"\n{options.strategy}, {len(prompts)} prompts, {options.budget} tokens, temperature {temperature:g}:"
        )
        for name, value in figures(*found, window).items():
            print(f"  {name}: {value}")
        if temperature == 0:
            print(f"  near ties: {near_ties(*found, window)}")
            early = [base for base, _ in early_pairs(*found, window)]
            alone = run_rows(loaded, specs[0], [prompts[base.row] for base in early])
            same = _count(list(zip(early, alone, strict=True)), _same)
            print(f"  under baseline with no others beside them, the same to the letter: {same} of {len(early)}")
            print(f"  near ties: {near_ties(early, alone, window)}")
        if options.answers is not None:
            with options.answers.open("a", encoding="utf-8") as file:
                file.writelines(
                    f"{json.dumps(_told(item, temperature), ensure_ascii=False)}\n" for item in found[1]
                )


def _told(item: Attempt, temperature: float) -> dict[str, object]:
    """Return what is written of an answer, as `benchmarks/judges.py` reads it."""
    return {
        "temperature": temperature,
        "row": item.row,
        "text": item.text,
        "by_itself": item.verdict.end.by_itself,
        "ending": item.ending,
        "complete": item.complete,
        "rewinds": item.rewinds,
    }


if __name__ == "__main__":
    main()
