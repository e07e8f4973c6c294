"""What each strategy costs: `python benchmarks/strategies.py` prints the table; `--write` puts it into the docs.

The same full batch makes the same number of steps under every strategy, with no row allowed to end, in interleaved
rounds, and each step counts as in the median of its rounds. Four strategies do nothing in a step, `baseline` among
them: their mean is what the others are compared with, and how far they are from it tells the noise.

`--host` takes a runner that computes nothing, so that what is left is the host's work, each step as in the least
of its rounds: that is quick, and tells the same on a busy machine.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from prompts import EXAMPLES, encode, read_prompts
from tables import STRATEGIES, write_tables

from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spelling import as_percent
from endmark.jobs.strategies import build_strategies
from endmark.worker.engine.contract import Runner
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import NATURAL
from endmark.worker.engine.plan import StepPlan, StepResult, Ticket
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.loader import load_engine

_BATCH = 64  # rows that are timed together
_IDLE = ("baseline", "concise", "continue", "escalate")  # the others act before an attempt, or after it
_SENTENCE = 8  # tokens of a sentence of the text that rows are told
_NOISE = 0.01  # the most of it that a table may hold


class IdleRunner:
    """A runner that computes nothing, on which all that takes time is the engine."""

    page_size, num_pages, max_rows, context = 16, 64 * 64, _BATCH, 1024
    prefill_tokens, piece_tokens, weight_tokens, refill, overlaps = 8192, 2048, 8, 1, False

    def launch(self, plan: StepPlan) -> Ticket:
        """Return the step as done."""
        return Ticket(len(plan.slots), None)

    def read(self, ticket: Ticket) -> StepResult:
        """Return the same token for every row."""
        count = ticket.rows
        return StepResult([1] * count, [0.0] * count, [1] * count, [NATURAL] * count, {})


class EndlessRunner:
    """A runner whose answers never end: the device does its whole work, and the host is told other tokens.

    They are random words in sentences: nothing loops, and what was cut can be trimmed, so that no row is taken
    back. That costs what is computed again, and is no cost of a step.
    """

    def __init__(self, runner: Runner, words: Sequence[int], full_stop: int) -> None:
        self.page_size, self.num_pages, self.max_rows = runner.page_size, runner.num_pages, runner.max_rows
        self.prefill_tokens, self.context, self.overlaps = runner.prefill_tokens, runner.context, runner.overlaps
        self.refill, self.piece_tokens, self.weight_tokens = (
            runner.refill,
            runner.piece_tokens,
            runner.weight_tokens,
        )
        self._runner = runner
        self._words, self._full_stop = itertools.cycle(words), full_stop
        self._steps = 0

    def launch(self, plan: StepPlan) -> Ticket:
        """Start the step."""
        return self._runner.launch(plan)

    def read(self, ticket: Ticket) -> StepResult:
        """Return what the step sampled, its tokens replaced."""
        result = self._runner.read(ticket)
        self._steps += 1
        count = len(result.token_ids)
        ends = self._steps % _SENTENCE == 0
        told = [self._full_stop] * count if ends else list(itertools.islice(self._words, count))
        return replace(result, token_ids=told)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is timed: a model that runs the same rows under every strategy."""

    name: str
    device: str
    runner: Runner
    vocabulary: Vocabulary
    eos_ids: frozenset[int]
    prompts: Sequence[Sequence[int]]  # token ids


def load(model: str, device: str, dataset: Path) -> Subject:
    """Load a model as a worker would, with the prompts of a dataset."""
    loaded = load_engine(model, device=device)
    engine = loaded.engine
    prompts = [prompt.token_ids for prompt in encode(loaded, read_prompts(dataset)[:_BATCH])]
    return Subject(
        model, loaded.description.device, loaded.runner, engine.vocabulary, frozenset(engine.eos_ids), prompts
    )


def seven_b() -> Subject:
    """Build a 7B shape with random weights and words on a GPU."""
    from on_gpu import Bench
    from seven_b import words

    bench = Bench(_BATCH, words())
    bench.prepare(expanded=True)
    prompts = [row.prompt_token_ids for row in bench.rows]
    return Subject("7B shape", "cuda", bench.runner, bench.vocabulary, frozenset(), prompts)


def host_alone() -> Subject:
    """Build an engine without a device, and with made-up words."""
    from seven_b import words

    rng = random.Random(3)
    prompts = [[rng.randrange(6, 30000) for _ in range(64)] for _ in range(_BATCH)]
    return Subject("no model", "cpu", IdleRunner(), Vocabulary(words()), frozenset(), prompts)


def time_steps(subject: Subject, steps: int, rounds: int) -> dict[str, list[list[float]]]:
    """Return, for each strategy, the seconds of every step in every round, each round in another order."""
    # Processor time where it is the device: what else runs on the machine must not decide between strategies.
    clock = time.process_time if subject.device == "cpu" else time.perf_counter
    rng = random.Random(5)
    known = subject.vocabulary.token_bytes
    words = [token for token, data in enumerate(known) if data[:1] == b" " and data[1:].isalpha()]
    told = [rng.choice(words) for _ in range(9973)], known.index(b".")
    taken: dict[str, list[list[float]]] = {text: [] for text in STRATEGIES}
    for _ in range(rounds + 1):
        for text in rng.sample(STRATEGIES, len(STRATEGIES)):
            endless = Engine(EndlessRunner(subject.runner, *told), subject.vocabulary, subject.eos_ids)
            strategies = build_strategies([text])
            for key, prompt in enumerate(subject.prompts):
                endless.add(
                    Request(
                        key=key, prompt_token_ids=prompt, max_new_tokens=steps, strategies=strategies, stream=key
                    )
                )
            times = [clock()]
            while endless.has_work:
                endless.step()
                times.append(clock())
            taken[text].append([end - begin for begin, end in itertools.pairwise(times)])
    return {text: values[1:] for text, values in taken.items()}  # the first round warms up


def usual(rounds: Sequence[Sequence[float]]) -> float:
    """Return the seconds of a round in which every step takes what it took in the median of the rounds.

    What else the machine does slows or hastens single steps, seldom the same ones in every round; what a strategy
    costs, it costs in all of them.
    """
    return sum(map(statistics.median, zip(*rounds, strict=True)))


def least(rounds: Sequence[Sequence[float]]) -> float:
    """Return the seconds of a round in which every step takes the least of what it took."""
    return sum(map(min, zip(*rounds, strict=True)))


@dataclass(frozen=True, slots=True)
class Speed:
    """What the steps of one strategy took."""

    ratio: float  # tokens/s to those of the idle strategies
    cost: float  # microseconds of a token more than under them
    tokens_per_second: float


def compare_speeds(
    taken: dict[str, list[list[float]]],
    tokens: int,
    round_of: Callable[[Sequence[Sequence[float]]], float] = usual,
) -> dict[str, Speed]:
    """Return each strategy's speed from the seconds of its steps, which made that many tokens a round."""
    seconds = {text: round_of(rounds) for text, rounds in taken.items()}
    base = statistics.mean(seconds[text] for text in _IDLE)
    return {text: Speed(base / own, (own - base) / tokens * 1e6, tokens / own) for text, own in seconds.items()}


def make_table(speeds: dict[str, Speed]) -> str:
    """Return the table in Markdown."""
    lines = ["| strategy | tokens/s, relative | µs more a token |", "| --- | ---: | ---: |"]
    for text, speed in speeds.items():
        lines.append(f"| `{text}` | {speed.ratio:.3f} | {max(0.0, speed.cost):.1f} |")
    return "\n".join(lines) + "\n"


def report_host(rounds: int, steps: int) -> str:
    """Return what each strategy costs the host, in Markdown."""
    speeds = compare_speeds(time_steps(host_alone(), steps, rounds), _BATCH * steps, least)
    lines = ["| strategy | host, µs more a token |", "| --- | ---: |"]
    lines += [f"| `{text}` | {max(0.0, speed.cost):.1f} |" for text, speed in speeds.items()]
    base = 1e6 / statistics.mean(speeds[text].tokens_per_second for text in _IDLE)
    noise = max(abs(speeds[text].cost) for text in _IDLE)
    note = (
        f"{_BATCH} rows of {steps} tokens, each step as in the least of {rounds} rounds: {base:.1f} µs a token, "
        f"those that do nothing in a step at most {noise:.2f} from it."
    )
    return "\n".join([*lines, "", note, ""])


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--seven-b", action="store_true", help="a 7B shape with random weights instead, on a GPU")
    parser.add_argument("--name", help="what the docs call the model")
    parser.add_argument("--dataset", type=Path, default=EXAMPLES)
    parser.add_argument("--rounds", type=int, default=16, help="timed rounds")
    parser.add_argument("--steps", type=int, default=96, help="tokens of each row in a timed round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="put the table into docs/strategies.md")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU; one is the steadiest")
    parser.add_argument("--host", action="store_true", help="what they cost the host, with no model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.host:
        table = report_host(options.rounds, options.steps)
        print(table)
        if options.write:
            write_tables("host", table)
        return
    subject = seven_b() if options.seven_b else load(options.model, options.device, options.dataset)
    rows = len(subject.prompts)
    taken = time_steps(subject, options.steps, options.rounds)
    speeds = compare_speeds(taken, rows * options.steps)
    noise = max(abs(speeds[text].ratio - 1) for text in _IDLE)
    base = statistics.mean(speeds[text].tokens_per_second for text in _IDLE)
    note = (
        f"Model `{options.name or subject.name}` on {subject.device}, {rows} rows of {options.steps} tokens, "
        f"each step as in the median of {options.rounds} rounds, relative to the mean of the {len(_IDLE)} "
        f"strategies that do nothing in a step: {base:,.0f} tokens/s, {1e6 / base:.0f} µs a token. They are at "
        f"most {as_percent(noise, 1)} from it, which is the noise."
    )
    table = make_table(speeds)
    print(table)
    print(note)
    if noise > _NOISE:
        sys.exit(f"the noise is {as_percent(noise, 1)}: run it on a quieter machine, or with more --rounds")
    if options.write:
        write_tables("speed", f"{table}\n{note}\n")


if __name__ == "__main__":
    main()
