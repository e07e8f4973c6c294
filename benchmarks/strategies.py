"""Compare all strategies on one model and one dataset: how answers end, how long they are, what a token costs.

`python benchmarks/strategies.py` prints the table; with `--write` it goes into docs/strategies.md. The answers are
made by the engine, rows going on or starting again as a worker would let them. Speed is measured apart: the same
full batch makes the same number of steps under every strategy, with no row allowed to end, in interleaved rounds,
and each step counts as in the median of its rounds. Four strategies do nothing in a step, `baseline` among them:
their mean is what the others are compared with, and how far they are from it tells the noise.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from prompts import EXAMPLES, encode, read_prompts

from endmark.jobs.sampling import Sampling
from endmark.jobs.sentences import ends_sentence
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Attempt, EosSource, FinishReason, StoredRow
from endmark.worker.engine.contract import Runner
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.plan import DecodePlan, PrefillPlan, StepResult, Ticket
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import LoadedEngine, load_engine
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.rows import RowRun

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "strategies.md"
BEGIN, END = "<!-- table: made by benchmarks/strategies.py -->\n", "<!-- /table -->"
STRATEGIES = (
    "baseline",
    "soft-landing",
    "eos-reward",
    "exp-decay",
    "eos-reward-published",
    "concise",
    'stop:text="\\n\\n"',
    "no-loops",
    "continue",
    "escalate",
    "concise;soft-landing;no-loops",
)
_BATCH = 64  # rows that are timed together
_IDLE = ("baseline", "concise", "continue", "escalate")  # the others act before an attempt, or after it
_NOISE = 0.01  # the most of it that a table may hold


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the rows ended under one strategy; shares of all rows."""

    natural: float
    boosted: float
    forced: float
    truncated: float
    sentence_end: float  # the text ends where a sentence ends
    complete: float  # the same, and the row was not truncated
    mean_tokens: float


def run_rows(loaded: LoadedEngine, spec: GenerationSpec, prompts: Sequence[str]) -> list[Attempt]:
    """Run every prompt to its last attempt; return those, in order."""
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
                engine.add(following)
    return [row.attempts[-1] for row in rows]


def judge(attempts: Sequence[Attempt]) -> Outcome:
    """Return the shares of one strategy's rows."""

    def share(wanted: Iterable[bool]) -> float:
        return sum(wanted) / len(attempts)

    def source(kind: EosSource) -> float:
        return share(attempt.verdict.eos_source is kind for attempt in attempts)

    whole = [ends_sentence(attempt.text) for attempt in attempts]
    return Outcome(
        natural=source(EosSource.NATURAL),
        boosted=source(EosSource.BOOSTED),
        forced=source(EosSource.FORCED),
        truncated=share(attempt.verdict.truncated for attempt in attempts),
        sentence_end=share(whole),
        complete=share(
            ends and attempt.verdict.finish_reason in (FinishReason.EOS, FinishReason.STOP_SEQUENCE)
            for ends, attempt in zip(whole, attempts, strict=True)
        ),
        mean_tokens=statistics.mean(attempt.completion_tokens for attempt in attempts),
    )


class EndlessRunner:
    """A runner whose answers never end: the device does its whole work, and the host is told other tokens."""

    def __init__(self, runner: Runner, tokens: Sequence[int]) -> None:
        self.page_size, self.num_pages, self.max_rows = runner.page_size, runner.num_pages, runner.max_rows
        self.prefill_tokens, self.context, self.overlaps = runner.prefill_tokens, runner.context, runner.overlaps
        self.refill = runner.refill
        self._runner = runner
        self._tokens = itertools.cycle(tokens)

    def launch(self, plan: PrefillPlan | DecodePlan) -> Ticket:
        """Start the step."""
        return self._runner.launch(plan)

    def read(self, ticket: Ticket) -> StepResult:
        """Return what the step sampled, its tokens replaced."""
        result = self._runner.read(ticket)
        return replace(result, token_ids=[next(self._tokens) for _ in result.token_ids])


def time_steps(
    loaded: LoadedEngine, prompts: Sequence[str], steps: int, rounds: int
) -> dict[str, list[list[float]]]:
    """Return, for each strategy, the seconds of every step in every round, each round in another order."""
    engine = loaded.engine
    # Processor time where it is the device: what else runs on the machine must not decide between strategies.
    clock = time.process_time if loaded.description.device == "cpu" else time.perf_counter
    rng = random.Random(5)
    plain = [token for token, data in enumerate(engine.vocabulary.token_bytes) if data.isalpha()]
    tokens = [rng.choice(plain) for _ in range(9973)]
    encoded = encode(loaded, prompts[:_BATCH])
    taken: dict[str, list[list[float]]] = {text: [] for text in STRATEGIES}
    for _ in range(rounds + 1):
        for text in rng.sample(STRATEGIES, len(STRATEGIES)):
            endless = Engine(EndlessRunner(engine.runner, tokens), engine.vocabulary, engine.eos_ids)
            strategies = build_strategies([text])
            for key, prompt in enumerate(encoded):
                endless.add(
                    Request(
                        key=key,
                        prompt_token_ids=prompt.token_ids,
                        max_new_tokens=steps,
                        strategies=strategies,
                        stream=key,
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


@dataclass(frozen=True, slots=True)
class Speed:
    """What the steps of one strategy took."""

    ratio: float  # tokens/s to those of the idle strategies
    cost: float  # microseconds of a token more than under them
    tokens_per_second: float


def compare_speeds(taken: dict[str, list[list[float]]], tokens: int) -> dict[str, Speed]:
    """Return each strategy's speed from the seconds of its steps, which made that many tokens a round."""
    seconds = {text: usual(rounds) for text, rounds in taken.items()}
    base = statistics.mean(seconds[text] for text in _IDLE)
    return {text: Speed(base / own, (own - base) / tokens * 1e6, tokens / own) for text, own in seconds.items()}


def make_table(outcomes: dict[str, Outcome], speeds: dict[str, Speed]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| strategy | natural EOS | boosted | forced | truncated | ends with a sentence | complete | mean tokens "
        "| tokens/s, relative | µs more a token |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for text, outcome in outcomes.items():
        shares = (
            outcome.natural,
            outcome.boosted,
            outcome.forced,
            outcome.truncated,
            outcome.sentence_end,
            outcome.complete,
        )
        cells = [f"`{text}`", *(f"{share:.0%}" for share in shares), f"{outcome.mean_tokens:.0f}"]
        if speeds:
            cells += [f"{speeds[text].ratio:.3f}", f"{max(0.0, speeds[text].cost):.1f}"]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_table(table: str, note: str) -> None:
    """Put the table between its marks in the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{table}\n{note}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--dataset", type=Path, default=EXAMPLES)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=16, help="timed rounds; 0 leaves the speed out")
    parser.add_argument("--steps", type=int, default=96, help="tokens of each row in a timed round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU; one is the steadiest")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prompts = read_prompts(options.dataset)
    loaded = load_engine(options.model, device=options.device)
    outcomes = {}
    for text in STRATEGIES:
        spec = GenerationSpec(
            model=options.model,
            strategies=build_strategies([text]),
            max_new_tokens=options.max_new_tokens,
            sampling=Sampling(temperature=options.temperature),
        )
        outcomes[text] = judge(run_rows(loaded, spec, prompts))
    note = (
        f"{len(prompts)} prompts, {options.max_new_tokens} new tokens, temperature {options.temperature:g}, model "
        f"`{options.model}` on {options.device}."
    )
    speeds: dict[str, Speed] = {}
    noise = 0.0
    if options.rounds:
        rows = min(_BATCH, len(prompts))
        taken = time_steps(loaded, prompts[:rows], options.steps, options.rounds)
        speeds = compare_speeds(taken, rows * options.steps)
        noise = max(abs(speeds[text].ratio - 1) for text in _IDLE)
        base = statistics.mean(speeds[text].tokens_per_second for text in _IDLE)
        note += (
            f" Speed: {rows} rows of {options.steps} tokens, each step as in the median of {options.rounds} "
            f"rounds, relative to the mean of the {len(_IDLE)} strategies that do nothing in a step: {base:,.0f} "
            f"tokens/s, {1e6 / base:.0f} µs a token. They are at most {noise:.1%} from it, which is the noise."
        )
    table = make_table(outcomes, speeds)
    print(table)
    print(note)
    if noise > _NOISE:
        sys.exit(f"the noise is {noise:.1%}: run it on a quieter machine, or with more --rounds")
    if options.write:
        write_table(table, note)


if __name__ == "__main__":
    main()
