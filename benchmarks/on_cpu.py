"""Tokens a second on a CPU: the engine against `model.generate`, the same NF4 values in fp32, in one process.

Tokens that nobody asked for do not count: `generate` goes on until the longest answer of its batch is done.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from workload import Row, mixed_rows

from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.models.loaded import OwnEngine
from endmark.worker.models.loader import load_engine, load_model, model_path
from endmark.worker.models.weights import expand

GENERATE_BATCH = 32
_SCALE = 0.5  # of the workload's lengths: a few minutes in all


@dataclass(frozen=True, slots=True)
class Measured:
    """One system's run over all rows."""

    system: str
    tokens: int
    seconds: float
    processor_seconds: float  # over all threads; a machine that others use too leaves them nearly as they are

    @property
    def speed(self) -> float:
        """Answer tokens a second."""
        return self.tokens / self.seconds


def run_engine(loaded: OwnEngine, rows: Sequence[Row]) -> int:
    """Run the rows to their whole lengths; return the answer tokens."""
    endless = Engine(loaded.runner, loaded.engine.vocabulary, ())  # no token ends a row
    for key, row in enumerate(rows):
        endless.add(Request(key=key, prompt_token_ids=row.prompt_token_ids, max_new_tokens=row.max_tokens))
    made = 0
    while endless.has_work:
        made += sum(finished.completion_tokens for finished in endless.step())
    return made


@torch.inference_mode()
def run_generate(network: PreTrainedModel, rows: Sequence[Row]) -> int:
    """Run the rows in left-padded batches, in the order given; return the answer tokens that were asked for."""
    for begin in range(0, len(rows), GENERATE_BATCH):
        batch = rows[begin : begin + GENERATE_BATCH]
        width = max(len(row.prompt_token_ids) for row in batch)
        lengths = torch.tensor([len(row.prompt_token_ids) for row in batch])
        prompts = torch.tensor(
            [[0] * (width - len(row.prompt_token_ids)) + [*row.prompt_token_ids] for row in batch]
        )
        longest = max(row.max_tokens for row in batch)
        made = network.generate(
            prompts,
            attention_mask=(torch.arange(width) >= width - lengths.unsqueeze(-1)).long(),
            max_new_tokens=longest,
            min_new_tokens=longest,
            do_sample=False,
        )
        assert made.shape == (len(batch), width + longest)
    return sum(row.max_tokens for row in rows)


def timed(system: str, run: Callable[[], int]) -> Measured:
    """Run one system and return its figures."""
    begin, worked = time.perf_counter(), time.process_time()
    tokens = run()
    return Measured(system, tokens, time.perf_counter() - begin, time.process_time() - worked)


def measure(model: str, count: int, seed: int) -> Iterable[Measured]:
    """Yield each system's figures as they come; the engine first."""
    loaded = load_engine(model, device="cpu")
    rows = mixed_rows(count, seed, len(loaded.tokenizer), _SCALE)
    run_engine(loaded, rows[:4])  # the first forward pass pays for what is made once
    yield timed(f"endmark, {loaded.description.weights} weights", lambda: run_engine(loaded, rows))
    network = load_model(model_path(model), device="cpu")
    network.set_attn_implementation("sdpa")
    for weights in ("packed", "expanded"):
        if weights == "expanded":
            expand(network)
        run_generate(network, [Row(row.prompt_token_ids, 4) for row in rows[:4]])
        yield timed(
            f"model.generate, batches of {GENERATE_BATCH}, {weights} weights", lambda: run_generate(network, rows)
        )
