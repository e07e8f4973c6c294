"""The systems of the throughput benchmark on a GPU: a 7B-shape model with random weights on the fixed workload."""

import gc
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from seven_b import build
from workload import Row, mixed_rows

from endmark.jobs.landing import STATES, tabulate
from endmark.jobs.sampling import Sampling
from endmark.jobs.spelling import as_percent
from endmark.jobs.strategies import build_strategies
from endmark.worker.engine.attention import PLAIN
from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.weights import expand

_FLOOR_BYTES, _FLOOR_FLOPS = 4.3e12, 750e12  # a second: the card's copy speed, its speed in large products
_MAX_ROWS = 256
_PAGE = 16
_LEFT_FREE = 8 * 2**30  # bytes of the card, beside the cache: for prefill, scores and graphs
_PENALTIES = Sampling(
    repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.2, dry_multiplier=0.8, min_new_tokens=8
)
_MIXED = (
    ["eos-reward"],
    ["soft-landing"],
    ["exp-decay"],
    ["eos-reward:start=0.5"],
    ["soft-landing:start=0.2"],
    ["no-loops"],
    ["stop:text=\\n\\n###"],
    [],
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one system did with the work."""

    system: str
    tokens: int
    seconds: float
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds


def work(rows: int) -> list[Row]:
    """Return the first rows of the published workload."""
    return mixed_rows(2000, 7, 32000)[:rows]


def floor_seconds(rows: Sequence[Row]) -> float:
    """Return the least time by arithmetic: every KV byte and weight read once a step, always a full batch."""
    weights, token_bytes = 6.607e9, 2 * 32 * 4096 * 2
    output = sum(row.max_tokens for row in rows)
    cached = sum(len(row.prompt_token_ids) * row.max_tokens + row.max_tokens**2 // 2 for row in rows)
    steps = output / _MAX_ROWS
    attention = cached * token_bytes / _FLOOR_BYTES
    products = steps * max(weights * 2 / _FLOOR_BYTES, 2 * weights * _MAX_ROWS / _FLOOR_FLOPS)
    prefill = 2 * weights * sum(len(row.prompt_token_ids) for row in rows) / _FLOOR_FLOPS
    return attention + products + prefill


class Bench:
    """One model on the card, measured in several ways."""

    def __init__(self, rows: int, words: Sequence[bytes] = (b"x",) * 32000) -> None:
        self.rows = work(rows)
        self.vocabulary = Vocabulary(words)
        self._network = build(PLAIN)
        self._runner: CudaRunner | None = None

    @property
    def runner(self) -> CudaRunner:
        """What computes its steps, once it is prepared."""
        assert self._runner is not None
        return self._runner

    def generate(self, batch: int, rows: int) -> Outcome:
        """Left-padded `model.generate`, NF4, on some of the rows; call it before `prepare`."""
        network = self._network
        network.set_attn_implementation("sdpa")
        some = self.rows[:rows]
        torch.cuda.synchronize()
        started = time.perf_counter()
        for begin in range(0, len(some), batch):
            group = some[begin : begin + batch]
            width = max(len(row.prompt_token_ids) for row in group)
            ids = torch.tensor(
                [[0] * (width - len(row.prompt_token_ids)) + list(row.prompt_token_ids) for row in group]
            )
            mask = torch.tensor(
                [[0] * (width - len(r.prompt_token_ids)) + [1] * len(r.prompt_token_ids) for r in group]
            )
            longest = max(row.max_tokens for row in group)
            network.generate(
                ids.cuda(),
                attention_mask=mask.cuda(),
                max_new_tokens=longest,
                min_new_tokens=longest,
                do_sample=False,
                pad_token_id=0,
            )
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        network.set_attn_implementation(PLAIN)
        return Outcome(f"generate, batches of {batch}, {rows} rows", sum(row.max_tokens for row in some), seconds)

    def prepare(self, *, expanded: bool, cache_type: torch.dtype | None = None, kv_gib: float = 70) -> None:
        """Build the runner; expanding cannot be undone."""
        self._runner = None
        gc.collect()
        torch.cuda.empty_cache()
        started = time.monotonic()
        if expanded:
            expand(self._network)
            torch.cuda.empty_cache()
        item = cache_type.itemsize if cache_type is not None else 2
        room = min(kv_gib * 2**30, torch.cuda.mem_get_info()[0] - _LEFT_FREE)  # the former on an H200
        pages = int(room / (2 * 32 * 4096 * item)) // _PAGE
        table = torch.frombuffer(bytearray(b"".join(tabulate(self.vocabulary.token_bytes))), dtype=torch.uint8)
        self._runner = CudaRunner(
            self._network,
            {2},
            num_pages=min(pages, _MAX_ROWS * 1024 // _PAGE),
            page_size=_PAGE,
            max_rows=_MAX_ROWS,
            prefill_tokens=8192,
            piece_tokens=2048,
            context=1024,
            sentence_table=table.view(STATES, -1),
            cache_type=cache_type,
        )
        print(f"{'expanded' if expanded else 'packed'} prepared in {time.monotonic() - started:.0f} s", flush=True)
        everything, self.rows = self.rows, self.rows[:260]
        self.engine("kernels of prefill compiled")
        self.rows = everything

    def engine(
        self, name: str, *, mixed: bool = False, in_order: bool = False, sampling: Sampling = Sampling()
    ) -> Outcome:
        """The engine; rows of mixed strategies or none, the largest budget first or in order."""
        engine = Engine(self.runner, self.vocabulary, frozenset())
        strategies = [tuple(build_strategies(words)) for words in _MIXED] if mixed else [()]
        waiting = deque(
            Request(
                key=key,
                prompt_token_ids=row.prompt_token_ids,
                max_new_tokens=row.max_tokens,
                sampling=sampling,
                strategies=strategies[key % len(strategies)],
                stream=key,
            )
            for key, row in enumerate(self.rows)
        )
        torch.cuda.synchronize()
        started = time.perf_counter()
        done, tokens, waited = 0, 0, 0.0
        read = self.runner.read

        def timed(ticket):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            nonlocal waited
            before = time.perf_counter()
            result = read(ticket)
            waited += time.perf_counter() - before
            return result

        self.runner.read = timed  # type: ignore[method-assign]
        while done < len(self.rows):
            while waiting and (not in_order or engine.waiting < self.runner.refill):
                engine.add(waiting.popleft())
            for finished in engine.step():
                done += 1
                tokens += finished.completion_tokens
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        del self.runner.read
        notes = {
            "steps": engine.steps,
            "rows/step": engine.row_steps / engine.steps,
            "preempted": engine.preemptions,
            "host s": seconds - waited,
            "waited s": waited,
        }
        return Outcome(name, tokens, seconds, notes)

    def step_times(self, length: int) -> Iterator[tuple[str, float]]:
        """Yield the milliseconds of one decode step of a full batch, and of its kernels, at rows of one length."""
        from torch.profiler import ProfilerActivity, profile

        from endmark.worker.engine.plan import DecodePlan, StepPlan

        runner = self.runner
        count, pages = _MAX_ROWS, length // _PAGE + 1
        changes = [
            (slot, index, (slot * pages + index) % runner.num_pages)
            for slot in range(count)
            for index in range(pages)
        ]
        for begin in range(pages):
            plan = DecodePlan(range(count), [length] * count, [1] * count, [1] * count, changes[begin::pages])
            runner.read(runner.launch(StepPlan(plan)))
        plan = StepPlan(DecodePlan(range(count), [length] * count, [1] * count, [1] * count))
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(20):
            ticket = runner.launch(plan)
        runner.read(ticket)
        yield "step", (time.perf_counter() - started) / 20 * 1e3
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(5):
                ticket = runner.launch(plan)
            runner.read(ticket)
            torch.cuda.synchronize()
        kernels = sorted(profiler.key_averages(), key=lambda item: -item.device_time_total)
        for item in kernels[:14]:
            yield f"{item.key[:60]} x{item.count // 5}", item.device_time_total / 5e3


_STEP_LENGTH = 335  # tokens of each row in the decode step that `step` looks into


def measure(systems: Sequence[str], rows: int) -> Iterator[Outcome]:
    """Yield what each system does with the first rows of the workload, one after the other on one model."""
    bench = Bench(rows)
    if "generate" in systems:
        yield bench.generate(64, min(64, rows))
    if "packed" in systems:
        bench.prepare(expanded=False)
        yield bench.engine("engine, packed")
        _look_into_step(bench, systems)
        del bench  # its layers are laid out anew, and none of them can be expanded
        gc.collect()
        torch.cuda.empty_cache()
        bench = Bench(rows)
    if {"expanded", "mixed", "penalties", "in-order"} & set(systems):
        bench.prepare(expanded=True)
        yield bench.engine("engine, expanded")
        _look_into_step(bench, systems)
    if "mixed" in systems:
        yield bench.engine("engine, expanded, mixed strategies", mixed=True)
        yield bench.engine("engine, expanded, again")
    if "penalties" in systems:
        yield bench.engine("engine, expanded, penalties on every row", sampling=_PENALTIES)
        yield bench.engine("engine, expanded, once more")
    if "in-order" in systems:
        yield bench.engine("engine, expanded, rows in order", in_order=True)
    if "fp8" in systems:
        bench.prepare(expanded=True, cache_type=torch.float8_e4m3fn)
        yield bench.engine("engine, expanded, fp8 KV cache")
        _look_into_step(bench, systems)


def _look_into_step(bench: Bench, systems: Sequence[str]) -> None:
    """Print what one decode step of a full batch takes, kernel by kernel, if it is asked for."""
    for name, milliseconds in bench.step_times(_STEP_LENGTH) if "step" in systems else ():
        print(f"    {milliseconds:8.3f} ms  {name}", flush=True)


def report(systems: Sequence[str], rows: int) -> None:
    """Measure and print."""
    some = work(rows)
    floor = sum(row.max_tokens for row in some) / floor_seconds(some)
    print(f"{rows} rows, {sum(row.max_tokens for row in some):,} output tokens; floor {floor:,.0f} tokens/s")
    outcomes: list[Outcome] = []
    for outcome in measure(systems, rows):
        notes = ", ".join(f"{name} {value:,.1f}" for name, value in outcome.notes.items())
        print(
            f"{outcome.system:<42} {outcome.speed:>8,.0f} tokens/s "
            f"{as_percent(outcome.speed / floor, 1):>7}  {notes}",
            flush=True,
        )
        if not outcome.notes:
            outcomes.append(outcome)
        for peer in outcomes if outcome.notes else ():
            print(f"    {outcome.speed / peer.speed:6.2f} x {peer.system}")
