"""What `think` and `whole` make of a model that thinks: `python benchmarks/thinking.py` prints it, of the demo.

All runs may spend the same tokens: 192 for all, or 64 for the thought and 128 for the answer behind it. `--model`
takes another model that thinks, `--dataset` other prompts, and `--budgets` other tokens.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from prompts import read_prompts

from endmark.client.engine import Engine
from endmark.jobs.vocabulary import Part

EXAMPLES = Path(__file__).parents[1] / "examples"


def runs(thought: int, answer: int) -> dict[str, dict[str, Any]]:
    """Return the options of each run for these budgets."""
    think = f"think:budget={thought}"
    helped = {name: {"max_new_tokens": answer, "strategy": [name]} for name in (think, f"{think};whole")}
    return {"baseline": {"max_new_tokens": thought + answer}} | helped


def figures(found: Sequence[Any]) -> dict[str, Any]:
    """Return what is told of the answers of one run."""
    closed = Counter(str(item.thought_closed) for item in found if item.thought_closed is not None)
    ends = Counter(str(item.verdict.eos_source or "cut") for item in found if item.ended_in is not Part.REASONING)
    inside = [item.verdict.truncated for item in found if item.ended_in is Part.REASONING]
    return {
        "prompts": len(found),
        "without an answer": sum(not item.text.strip() for item in found),
        "cut in the thought": sum(inside),
        "EOS in the thought": len(inside) - sum(inside),
        "complete": sum(item.complete for item in found),
        "thoughts closed": dict(sorted(closed.items())),
        "answers ended": dict(sorted(ends.items())),
        "tokens": sum(item.completion_tokens for item in found),
        "tokens of thoughts": sum(item.reasoning_tokens for item in found),
    }


def main() -> None:
    """Make all runs, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(EXAMPLES / "thinking_model" / "model"))
    parser.add_argument("--dataset", type=Path, nargs="+", default=[EXAMPLES / "prompts.csv"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0])
    parser.add_argument("--budgets", default="64,128", help="tokens of the thought and of the answer")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="write all answers there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    prompts = [prompt for dataset in options.dataset for prompt in read_prompts(dataset)]
    engine = Engine(options.model, device=options.device)
    told = {}
    wanted = runs(*map(int, options.budgets.split(",")))
    for temperature, (run, settings) in product(options.temperature, wanted.items()):
        name = f"{run}, temperature {temperature:g}"
        found = engine.generate(prompts, temperature=temperature, **settings)
        told[name] = figures(found)
        print(f"\n{name}:")
        for what, value in told[name].items():
            print(f"  {what}: {value}", flush=True)
        if options.answers is not None:
            with options.answers.open("a", encoding="utf-8") as file:
                for item in found:
                    ends = f"{item.verdict.finish_reason} {item.ending} {item.thought_closed}"
                    head = f"{name} row {item.row} {ends} complete={item.complete}"
                    file.write(f"=== {head}\n<{item.reasoning}>\n{item.text}\n")
        if options.json is not None:
            options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
