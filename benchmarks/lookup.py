"""What prompt look-up could save: `python benchmarks/lookup.py --model FOLDER` prints it; it replays real answers.

Speculation without a second model: the last tokens are looked up in the prompt and the answer so far, what
followed them there is proposed, and one step takes all proposals that are right and one token more (greedy, so
that the answer stays the same). Tokens a step are the most that a row could run faster by, where a step of several
tokens a row costs no more than one of one: with few rows on a card, whose step is the reading of its weights.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from endings import EVERYDAY, run_rows
from prompts import encode, read_prompts

from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Ending
from endmark.worker.models.loader import load_engine

_LONGEST = 4  # tokens that are looked up together; down to 2


def steps(prompt: Sequence[int], answer: Sequence[int], proposals: int) -> int:
    """Return in how many steps an answer is made with so many proposals a step."""
    tokens: list[int] = []
    ends: dict[tuple[int, ...], int] = {}  # of each run of tokens: where it stood last

    def extend(more: Sequence[int]) -> None:
        for token in more:
            for length in range(2, min(_LONGEST, len(tokens)) + 1):  # what the new token follows
                ends[tuple(tokens[-length:])] = len(tokens)
            tokens.append(token)

    extend(prompt)
    done = count = 0
    while done < len(answer):
        found = (ends.get(tuple(tokens[-length:])) for length in range(min(_LONGEST, len(tokens)), 1, -1))
        at = next((end for end in found if end is not None), len(tokens))
        right = 0
        for proposed, token in zip(tokens[at : at + proposals], answer[done:], strict=False):
            if proposed != token:
                break
            right += 1
        extend(answer[done : done + right + 1])
        done += right + 1
        count += 1
    return count


def main() -> None:
    """Answer the prompts, replay the answers, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--dataset", type=Path, default=EVERYDAY)
    parser.add_argument("--rows", type=int, default=68, help="prompts, taken evenly from the dataset")
    parser.add_argument("--strategies", default="baseline,whole", help="joined by commas")
    options = parser.parse_args()
    loaded = load_engine(options.model, device="cuda" if torch.cuda.is_available() else "cpu")
    prompts = read_prompts(options.dataset)
    prompts = prompts[:: max(1, len(prompts) // options.rows)]
    for text in options.strategies.split(","):
        spec = GenerationSpec(strategies=build_strategies([text]))
        encoded = encode(loaded, prompts, spec)
        attempts = run_rows(loaded, spec, prompts)
        for kind in ("all answers", "answers that are no loops"):
            rows = [
                (prompt.token_ids, loaded.tokenizer(attempt.text, add_special_tokens=False)["input_ids"])
                for prompt, attempt in zip(encoded, attempts, strict=True)
                if kind == "all answers" or attempt.ending is not Ending.LOOP
            ]
            tokens = sum(len(answer) for _, answer in rows)
            shares = [
                f"{tokens / max(1, sum(steps(prompt, answer, ahead) for prompt, answer in rows)):.2f} with {ahead}"
                for ahead in (1, 3, 7)
            ]
            print(f"{text}, {kind} ({len(rows)}): tokens a step {', '.join(shares)} proposals", flush=True)


if __name__ == "__main__":
    main()
