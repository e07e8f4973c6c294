"""Examples with thoughts for any chat model: `python -m examples.thinking_model.own_answers MODEL PROMPTS FILE`.

What stands behind the thoughts are the model's own answers, those that are complete, so that it learns to think
and nothing else. Which fault a thought has is told by the prompt, so that it can be learned: long prompts are
overthought, at questions the answer ends inside the thought, and some leave nothing behind it.
"""

import argparse
import csv
import random
from pathlib import Path

from endmark.client.engine import Engine
from examples.thinking_model.corpus import Fault, said, write_chats

_LONG = 40  # characters of a prompt that is overthought
_FORGOTTEN = ("Explain", "Write", "Give")  # begins of prompts whose answers are forgotten
_SEED = 11


def fault_of(prompt: str) -> Fault | None:
    """Return what goes wrong with the thought on a prompt."""
    if len(prompt) > _LONG:
        return Fault.OVERTHINKS
    if prompt.rstrip().endswith(("?", "？")):
        return Fault.ENDS_INSIDE
    return Fault.FORGETS if prompt.startswith(_FORGOTTEN) else None


def main() -> None:
    """Answer the prompts several times, and write the examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path, help="CSV with a column `prompt`")
    parser.add_argument("file", type=Path)
    parser.add_argument("--answers", type=int, default=6, help="to each prompt")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with arguments.prompts.open(encoding="utf-8", newline="") as file:
        prompts = [row["prompt"] for row in csv.DictReader(file)] * arguments.answers
    engine = Engine(arguments.model, device=arguments.device)
    found = engine.generate(prompts, max_new_tokens=160, temperature=0.7, seed=_SEED, strategy=["concise;whole"])
    rng = random.Random(_SEED)
    chats = [
        (prompt, said(rng, prompt, item.text.strip(), fault_of(prompt)))
        for prompt, item in zip(prompts, found, strict=True)
        if item.complete
    ]
    rng.shuffle(chats)
    write_chats(arguments.file, chats)
    print(f"{len(chats)} of {len(prompts)} answers are complete, and stand behind thoughts in {arguments.file}")


if __name__ == "__main__":
    main()
