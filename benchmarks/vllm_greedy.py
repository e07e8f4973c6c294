"""Greedy rows through Endmark's engine and through vLLM, in 16 bits: `python benchmarks/vllm_greedy.py MODEL`.

Each fourth row has `deadline`, which forces an end; the others have no strategy. Where two answers part, it is
told whether rounding alone can have parted them (`near_ties.py`): both engines took their best token there, and
these two moved against each other by no more than the two best tokens of some step at which both drew the same.
Prompts are examples/prompts.csv, or random tokens for a model without a chat template.
"""

import argparse
import gc
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from near_ties import BEST, is_near_tie, movements, parting
from prompts import EXAMPLES, read_prompts

from endmark.jobs.strategies import build_strategies
from endmark.worker.engine.request import Finished, Request
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.models.loader import load_engine
from endmark.worker.vllm import loading

_ROWS = 16  # at once
_QUICK = {"max_model_len": 1024, "enforce_eager": True, "kv_cache_memory_bytes": 4 << 30}
_QUICK |= {"gpu_memory_utilization": 0.3}  # that must be free


def requests_of(loaded: LoadedEngine, count: int, new: int) -> list[Request]:
    """Return the rows."""
    generator, texts = torch.Generator().manual_seed(3), read_prompts(EXAMPLES)
    strategies = build_strategies(["deadline"])
    rows = []
    for key in range(count):
        if loaded.tokenizer.chat_template is None:
            ids = torch.randint(5, len(loaded.tokenizer), (16 + 2 * key,), generator=generator).tolist()
        else:
            said = [{"role": "user", "content": texts[key % len(texts)]}]
            ids = loaded.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        given = strategies if key % 4 == 3 else ()
        rows.append(Request(key, ids, new, stream=key, strategies=given, logprobs=BEST))
    return rows


def run(loaded: LoadedEngine, rows: Sequence[Request]) -> list[Finished]:
    """Return the answers in the order of the rows."""
    done: list[Finished] = []
    for row in rows:
        loaded.engine.add(row)
    while loaded.engine.has_work:
        done += loaded.engine.step()
    return sorted(done, key=lambda finished: finished.key)


def told(finished: Finished) -> Any:  # noqa: ANN401
    """Return an answer as `near_ties.py` wants it."""
    return SimpleNamespace(logprobs=finished.logprobs.stored() if finished.logprobs else "[]")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--new", type=int, default=64, help="most tokens of an answer")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    own = load_engine(options.model, device=device, max_rows=_ROWS, four_bits=False)
    rows = requests_of(own, options.rows, options.new)
    ours = run(own, rows)
    del own
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    usual = loading.engine_options
    loading.engine_options = lambda *given, **named: usual(*given, **named) | _QUICK
    loaded = loading.load_vllm_engine(options.model, device=device, weights="16bit", max_rows=_ROWS)
    theirs = run(loaded, rows)
    pairs = list(zip(map(told, ours), map(told, theirs), strict=True))
    largest = max((moved for pair in pairs for moved in movements(*pair)), default=0.0)
    counts, ends, others = Counter[str](), Counter[str](), []
    for one, other, pair in zip(ours, theirs, pairs, strict=True):
        found = parting(*pair)
        kind = "equal" if found is None else "near ties" if is_near_tie(found, largest) else "others"
        counts[kind] += 1
        if kind == "others":
            others.append((one.key, found))
        same = (one.verdict, one.end_token_id) == (other.verdict, other.end_token_id)
        if found is None:
            ends[f"{other.verdict.eos_source or 'none'}, {'told alike' if same else 'another'}"] += 1
    print(
        f"{len(ours)} rows: {dict(counts)}; a step moves two best tokens by up to {largest:.3f} nats; "
        f"ends of equal rows: {dict(ends)}; others: {others}",
        flush=True,
    )


if __name__ == "__main__":
    main()
