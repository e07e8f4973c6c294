"""How much later short rows end with a long prompt among them: `python benchmarks/long_prompt.py --model FOLDER`.

Random prompts, EOS ignored, greedy; the long prompt comes as the eleventh row. On a CPU the clock is the process's
own time, as other programs would count else. A model of a larger context than `--prompt` is needed.
"""

import argparse
import random
import time
from collections.abc import Sequence
from statistics import fmean

import torch
from workload import Row

from endmark.worker.demo import MODEL_DIR
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine

_PLACE = 10  # rows before the long prompt


def ends(engine: Engine, rows: Sequence[Row], *, on_gpu: bool) -> list[float]:
    """Return the seconds until each row has ended, all of them handed over at once."""
    clock = time.perf_counter if on_gpu else time.process_time
    for key, row in enumerate(rows):
        engine.add(Request(key, row.prompt_token_ids, max_new_tokens=row.max_tokens, stream=key))
    started, ended = clock(), [0.0] * len(rows)
    while engine.has_work:
        for finished in engine.step():
            ended[finished.key] = clock() - started
    return ended


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL_DIR))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=600, help="short rows")
    parser.add_argument(
        "--lengths", type=int, nargs=2, default=[128, 215], help="of their prompts and answers, at most"
    )
    parser.add_argument("--prompt", type=int, default=32000, help="tokens of the long one; its answer has 100")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1 if options.device == "cpu" else torch.get_num_threads())
    engine = load_engine(options.model, device=options.device).engine
    assert isinstance(engine, Engine), "a model that our own engine runs"
    engine.eos_ids = frozenset()
    known = min(32000, len(engine.vocabulary.token_bytes))
    rng = random.Random(3)

    def row(prompt: int, answer: int) -> Row:
        return Row(tuple(rng.randrange(5, known) for _ in range(prompt)), answer)

    prompt, answer = options.lengths
    for _ in range(options.rounds):  # new prompts each time: none is found again among the pages
        short = [row(rng.randint(1, prompt), rng.randint(1, answer)) for _ in range(options.rows)]
        long = row(options.prompt, 100)
        alone = ends(engine, short, on_gpu=options.device == "cuda")
        fresh = [Row(item.prompt_token_ids[::-1], item.max_tokens) for item in short]
        among = ends(engine, [*fresh[:_PLACE], long, *fresh[_PLACE:]], on_gpu=options.device == "cuda")
        after = among.pop(_PLACE)
        print(
            f"short rows alone end after {max(alone):.2f} s, {fmean(alone):.2f} on average; "
            f"with it {max(among) / max(alone) - 1:+.1%} and {fmean(among) / fmean(alone) - 1:+.1%}; "
            f"it ends after {after:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
