"""The systems of `benchmarks/peers.py`, each in a process of its own: Endmark's engine, vLLM's, ours over vLLM."""

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workload import Row

_WARM_ROWS = 260  # more than a batch, so that every CUDA graph has been captured before the clock runs
_VLLM_SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one system did with one set of rows."""

    system: str
    work: str
    prompt_tokens: int
    output_tokens: int
    seconds: float

    def line(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))


def run_endmark(model: Path, work: dict[str, list[Row]], options: Sequence[str]) -> Iterator[Result]:
    """Yield what the engine does with each set, loaded as a worker would load it.

    Args:
        model: the folder.
        work: rows by the name of their set.
        options: rows in one batch (0: the default), the KV cache (`auto` or `fp8`), and `file` or `lengths`: rows
            come in the order of the file as slots become free, so that no length is used to order them; or all at
            once, so that the largest budgets go first. Then the weights, by default `auto`.
    """
    import torch

    from endmark.worker.engine.request import Request
    from endmark.worker.models.loader import load_engine

    rows, kv_cache, order, *rest = options
    loaded = load_engine(
        str(model),
        device="cuda",
        max_rows=int(rows) or None,
        kv_cache=kv_cache,
        weights=rest[0] if rest else "auto",
    )
    engine = loaded.engine
    engine.eos_ids = frozenset()  # random weights choose the end token now and then; the rows' lengths are given

    def measure(some: Sequence[Row]) -> tuple[int, float]:
        waiting = deque(
            Request(key=key, prompt_token_ids=row.prompt_token_ids, max_new_tokens=row.max_tokens, stream=key)
            for key, row in enumerate(some)
        )
        torch.cuda.synchronize()
        tokens, started = 0, time.perf_counter()
        while waiting or engine.has_work:
            while waiting and (order == "lengths" or engine.waiting < loaded.runner.refill):
                engine.add(waiting.popleft())
            tokens += sum(item.completion_tokens for item in engine.step())
        torch.cuda.synchronize()
        return tokens, time.perf_counter() - started

    warm = [Row(row.prompt_token_ids, min(64, row.max_tokens)) for row in next(iter(work.values()))[:_WARM_ROWS]]
    measure(warm)
    for name, some in work.items():
        yield _result("endmark " + " ".join(options), name, some, *measure(some))


def run_vllm(model: Path, work: dict[str, list[Row]], options: Sequence[str]) -> Iterator[Result]:
    """Yield what vLLM does with each set.

    Args:
        model: the folder.
        work: rows by the name of their set.
        options: the quantisation (`none`, `bitsandbytes` or `fp8`), and rows in one batch.
    """
    os.environ.update(_VLLM_SETTINGS)
    import torch
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    quantization, rows = options[0], int(options[1])
    llm = LLM(
        model=str(model),
        skip_tokenizer_init=True,
        quantization=None if quantization == "none" else quantization,
        dtype="bfloat16",
        max_model_len=8192,
        max_num_seqs=rows,
        gpu_memory_utilization=0.9,
        enable_prefix_caching=False,
    )

    def measure(some: Sequence[Row]) -> tuple[int, float]:
        prompts: list[Any] = [{"prompt_token_ids": list(row.prompt_token_ids)} for row in some]
        how = [
            SamplingParams(temperature=0.0, max_tokens=row.max_tokens, ignore_eos=True, detokenize=False)
            for row in some
        ]
        torch.cuda.synchronize()
        started = time.perf_counter()
        outputs = llm.generate(prompts, how, use_tqdm=False)
        torch.cuda.synchronize()
        return sum(len(item.outputs[0].token_ids) for item in outputs), time.perf_counter() - started

    measure([Row(row.prompt_token_ids[:32], 8) for row in next(iter(work.values()))[:4]])
    for name, some in work.items():
        yield _result("vllm " + " ".join(options), name, some, *measure(some))


def run_drawn(model: Path, work: dict[str, list[Row]], options: Sequence[str]) -> Iterator[Result]:
    """Yield what Endmark's engine over vLLM does with each set, loaded as a worker would load it.

    Every row has strategies: one on its scores, one on its text and one behind its end. None of them acts on words
    without a sentence, so rows come to their lengths.

    Args:
        model: the folder.
        work: rows by the name of their set.
        options: the weights (`16bit`, `nf4`), and rows in one batch.
    """
    from endmark.worker.vllm.loading import load_vllm_engine

    engine = load_vllm_engine(str(model), weights=options[0], max_rows=int(options[1])).engine
    yield from measure_drawn("drawn " + " ".join(options), engine, work)


def measure_drawn(name: str, engine: Any, work: dict[str, list[Row]]) -> Iterator[Result]:  # noqa: ANN401
    """Yield what an engine over vLLM does with each set, with strategies on every row."""
    import torch

    from endmark.jobs.strategies import build_strategies
    from endmark.worker.engine.request import Request

    engine.eos_ids, engine.core.eos_ids = frozenset(), []  # as in `run_endmark`
    strategies = build_strategies(["soft-landing", "trim", 'stop:text="zzzz"'])

    def measure(some: Sequence[Row]) -> tuple[int, float]:
        torch.cuda.synchronize()
        waiting = deque(
            Request(key, row.prompt_token_ids, row.max_tokens, stream=key, strategies=strategies)
            for key, row in enumerate(some)
        )
        tokens, started = 0, time.perf_counter()
        while waiting or engine.has_work:
            while waiting and engine.running + engine.waiting < engine.capacity.rows:  # the order is the file's
                engine.add(waiting.popleft())
            tokens += sum(item.completion_tokens for item in engine.step())
        torch.cuda.synchronize()
        return tokens, time.perf_counter() - started

    measure([Row(row.prompt_token_ids[:32], 8) for row in next(iter(work.values()))[:4]])
    for name_of_set, some in work.items():
        yield _result(name, name_of_set, some, *measure(some))


def _result(system: str, name: str, rows: Sequence[Row], tokens: int, seconds: float) -> Result:
    """Return the figures of one set, and refuse a run that lost tokens."""
    if tokens != (wanted := sum(row.max_tokens for row in rows)):
        raise RuntimeError(f"{system}, {name}: {tokens} output tokens instead of {wanted}")
    return Result(system, name, sum(len(row.prompt_token_ids) for row in rows), tokens, seconds)


SYSTEMS = {"endmark": run_endmark, "vllm": run_vllm, "drawn": run_drawn}
