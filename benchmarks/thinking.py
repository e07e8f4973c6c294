"""What `think` with `whole` makes of the thinking demo: `python benchmarks/thinking.py` prints it.

Both runs may spend the same tokens: 192 for all, or 64 for the thought and 128 for the answer behind it. `--model`
takes another model that thinks, and `--budgets` other tokens.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompts import read_prompts

from endmark.client.engine import Engine
from endmark.jobs.vocabulary import Part

EXAMPLES = Path(__file__).parents[1] / "examples"


def runs(thought: int, answer: int) -> dict[str, dict[str, Any]]:
    """Return the options of both runs for these budgets."""
    helped = f"think:budget={thought};whole"
    return {
        "baseline": {"max_new_tokens": thought + answer},
        helped: {"max_new_tokens": answer, "strategy": [helped]},
    }


def figures(found: Sequence[Any]) -> dict[str, str]:
    """Return what is told of the answers of one run."""
    closed = Counter(str(item.thought_closed) for item in found if item.thought_closed is not None)
    cut = sum(item.ended_in is Part.REASONING and item.verdict.truncated for item in found)
    ended = sum(item.ended_in is Part.REASONING and not item.verdict.truncated for item in found)
    return {
        "without an answer": f"{sum(not item.text.strip() for item in found)} of {len(found)}",
        "cut in the thought": str(cut),
        "EOS in the thought": str(ended),
        "complete": f"{sum(item.complete for item in found)} of {len(found)}",
        "thoughts closed": ", ".join(f"{name} {count}" for name, count in sorted(closed.items())) or "none",
        "tokens": f"{sum(item.completion_tokens for item in found):,}",
    }


def main() -> None:
    """Run both, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(EXAMPLES / "thinking_model" / "model"))
    parser.add_argument("--dataset", type=Path, default=EXAMPLES / "prompts.csv")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budgets", default="64,128", help="tokens of the thought and of the answer")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="write all answers there")
    options = parser.parse_args()
    prompts = read_prompts(options.dataset)
    engine = Engine(options.model, device=options.device)
    for name, settings in runs(*map(int, options.budgets.split(","))).items():
        print(f"\n{name}, {len(prompts)} questions, greedy:")
        found = engine.generate(prompts, temperature=0, **settings)
        for what, value in figures(found).items():
            print(f"  {what}: {value}")
        if options.answers is not None:
            with options.answers.open("a", encoding="utf-8") as file:
                for item in found:
                    head = (
                        f"{name} row {item.row} {item.verdict.finish_reason} {item.ending} {item.thought_closed}"
                    )
                    file.write(f"=== {head} complete={item.complete}\n<{item.reasoning}>\n{item.text}\n")


if __name__ == "__main__":
    main()
