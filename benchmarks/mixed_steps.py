"""Prompts beside running rows, in virtual time: `python benchmarks/mixed_steps.py`.

The engine's own scheduler plans the sets of `peers.py`; a step takes what the 8B shape takes by its arithmetic, at
the rates of `worker/engine/rates.py`; weights and cached keys are read at 3.0 and 2.6 TB/s. It prints seconds,
output tokens a second and steps of each set, with attention of running rows behind that of prompts and beside it,
and when short rows end with one prompt of 32,000 tokens among them. `--card h200` has more pages and reads cached
keys at 3.9 TB/s; `--launch` is the host's time for a step with prompts.
"""

import argparse
from collections import deque
from collections.abc import Sequence
from statistics import fmean

from peers import sets
from workload import Row

from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import NATURAL
from endmark.worker.engine.plan import StepPlan, StepResult, Ticket
from endmark.worker.engine.rates import LAUNCH, PAIR, TOKEN
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary

_WEIGHTS = 16e9 / 3.0e12  # seconds that reading all weights takes
_CACHED = 131072  # bytes of a token's keys and values
_GRAPH = 0.0007  # beside a captured step without prompts
_LONG_PROMPT = 32000
_CARDS = {"h100": (25000, 768, 2.6e12), "h200": (53000, 1024, 3.9e12)}  # pages, rows, cached bytes read a second


class CardRunner:
    """Samples the same token always, and adds up what its steps would take."""

    page_size, context, overlaps, prefill_tokens, weight_tokens = 16, 40000, False, 8192, 256

    def __init__(self, card: str, piece_tokens: int, *, beside: bool, launch: float = LAUNCH) -> None:
        self.num_pages, self.max_rows, self._read = _CARDS[card]
        self.refill = self.max_rows // 16
        self.piece_tokens, self._beside, self._launch = piece_tokens, beside, launch
        self.now = 0.0  # seconds
        self.mixed = 0  # steps with prompts

    def launch(self, plan: StepPlan) -> Ticket:
        """Let the time of a step pass."""
        prompts = sum(row.end - row.cached for row in plan.prefill)
        running = _CACHED / self._read * sum(plan.decode.lengths)
        pairs = PAIR * sum((row.end**2 - row.cached**2) / 2 for row in plan.prefill)
        attention = max(running, pairs) if self._beside else running + pairs
        seconds = max(_WEIGHTS, TOKEN * (prompts + len(plan.decode.slots))) + attention
        self.now += max(seconds, self._launch) if plan.prefill else seconds + _GRAPH
        self.mixed += bool(plan.prefill)
        return Ticket(len(plan.slots))

    def read(self, ticket: Ticket) -> StepResult:
        """Return one token for each row."""
        count = ticket.rows
        return StepResult([3] * count, [0.0] * count, [1] * count, [NATURAL] * count)


def ends(rows: Sequence[Row], runner: CardRunner) -> tuple[dict[int, float], int]:
    """Return when each row ends that comes in the order of the file, in seconds, and the steps of all."""
    engine = Engine(runner, Vocabulary([b"x"] * 4), frozenset())
    waiting = deque(
        Request(key=key, prompt_token_ids=row.prompt_token_ids, max_new_tokens=row.max_tokens)
        for key, row in enumerate(rows)
    )
    ended: dict[int, float] = {}
    while waiting or engine.has_work:
        while waiting and engine.waiting < runner.refill:
            engine.add(waiting.popleft())
        ended.update((finished.key, runner.now) for finished in engine.step())
    return ended, engine.steps


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pieces", type=int, nargs="+", default=[1024, 2048, 8192], help="Tokens of a mixed step."
    )
    parser.add_argument("--sets", default="long,label,mixed", help="joined by commas")
    parser.add_argument("--card", choices=_CARDS, default="h100")
    parser.add_argument(
        "--launch", type=float, default=LAUNCH, help="Seconds of the host for a step with prompts."
    )
    options = parser.parse_args()
    work = {name: rows for name, rows in sets(1.0).items() if name in options.sets.split(",")}
    for piece in options.pieces:
        for name, rows in work.items():
            for beside in (False, True):
                runner = CardRunner(options.card, piece, beside=beside, launch=options.launch)
                _, steps = ends(rows, runner)
                tokens = sum(row.max_tokens for row in rows)
                print(
                    f"{piece:>5} {name:<6} {'beside' if beside else 'behind'} {runner.now:7.2f} s "
                    f"{tokens / runner.now:8,.0f} tokens/s, {runner.mixed} mixed steps of {steps}",
                    flush=True,
                )
        short = sets(1.0)["mixed"]
        alone, _ = ends(short, CardRunner(options.card, piece, beside=False, launch=options.launch))
        for place in (0, len(short) // 2):
            runner = CardRunner(options.card, piece, beside=False, launch=options.launch)
            among, _ = ends([*short[:place], Row((5,) * _LONG_PROMPT, 200), *short[place:]], runner)
            long = among.pop(place)
            print(
                f"{piece:>5} a prompt of {_LONG_PROMPT} tokens before row {place} of {len(short)} short ones: "
                f"they end {max(among.values()) / max(alone.values()) - 1:+.1%} at last, "
                f"{fmean(among.values()) / fmean(alone.values()) - 1:+.1%} on average; it ends after {long:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
