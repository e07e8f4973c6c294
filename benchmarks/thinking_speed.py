"""What `think` costs: `python benchmarks/thinking_speed.py` prints it, of a 7B shape with random weights on a GPU.

Every row thinks: its prompt has opened a thought, which takes its budget, and an answer follows. Beside it the
same rows with as many tokens and no thought. Rows come in the order of the file as slots become free, so no
length is used to order them. Both take turns; the ratio is the median of the pairs. `--set think` takes the long
rows of that set in `peers.py`, of which 88 fill the cache.
"""

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

from on_gpu import Bench
from peers import sets
from seven_b import CLOSE, OPEN, words
from workload import Row

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies
from endmark.jobs.thinking import Marks
from endmark.worker.engine.contract import Runner
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.engine.thought import Thought
from endmark.worker.service.thinking import steered

_MARKS = Marks(OPEN.decode(), CLOSE.decode())
_OPEN_ID, _CLOSE_ID = map(words().index, (OPEN, CLOSE))
_SAMPLING = Sampling(temperature=1.0)  # random weights would loop at 0, and loops close thoughts


def plain(key: int, row: Row) -> Request:
    """Return a row without a thought."""
    return Request(key, row.prompt_token_ids, row.max_tokens, _SAMPLING, stream=key)


def thinking(key: int, row: Row) -> Request:
    """Return the row with half of its tokens in a thought; the closing mark is one of the other half."""
    budget = max(1, row.max_tokens // 2)
    thought = Thought(_MARKS, opened=True, open_id=_OPEN_ID, close_id=_CLOSE_ID)
    strategies = build_strategies([f"think:budget={budget}"])
    answer = max(1, row.max_tokens - budget - 1)
    request = Request(
        key, row.prompt_token_ids, answer, _SAMPLING, strategies=strategies, stream=key, thought=thought
    )
    return steered(request, (_CLOSE_ID,))


def speed(
    runner: Runner, vocabulary: Vocabulary, rows: Sequence[Row], make: Callable[[int, Row], Request]
) -> float:
    """Return output tokens a second; EOS ends no row."""
    engine = Engine(runner, vocabulary, frozenset())
    waiting = deque(make(key, row) for key, row in enumerate(rows))
    tokens, started = 0, time.perf_counter()
    while waiting or engine.has_work:
        while waiting and engine.waiting < runner.refill:
            engine.add(waiting.popleft())
        tokens += sum(finished.completion_tokens for finished in engine.step())
    return tokens / (time.perf_counter() - started)


def compare(runner: Runner, vocabulary: Vocabulary, rows: Sequence[Row], pairs: int) -> None:
    """Print every pair, and the median of their ratios."""
    ratios = []
    for _ in range(pairs):
        without, with_think = (speed(runner, vocabulary, rows, make) for make in (plain, thinking))
        ratios.append(with_think / without)
        print(f"{without:,.0f} tokens/s without, {with_think:,.0f} with: {ratios[-1]:.3f}", flush=True)
    print(f"`think` on every row: {statistics.median(ratios):.3f} of the speed, the median of {pairs} pairs")


def main() -> None:
    """Build the model and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--set", choices=("mixed", "think"), default="mixed", help="which rows")
    options = parser.parse_args()
    bench = Bench(options.rows, words())
    bench.prepare(expanded=True)
    rows = bench.rows if options.set == "mixed" else sets(1.0)["think"][: options.rows]
    compare(bench.runner, bench.vocabulary, rows, options.pairs)


if __name__ == "__main__":
    main()
