"""What shapes cost a full batch: `python benchmarks/shapes_speed.py --model FOLDER` prints it, on a GPU or a CPU.

The same rows without a shape, half of them with a JSON schema, and all of them; the same where rows come and
go, with prompts computed beside them; and rows of four labels that are scored, beside as many plain answers.
Answers run to their budget, so that every step has a mask for every shaped row. A model of random weights whose
tokeniser has words for tokens (`benchmarks/peers.py` makes one of 8B) takes the tokens of another tokeniser, and
for the rest of its vocabulary two of them together: `--tokens FOLDER`.
"""

import argparse
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.shapes import Shape, ShapeKind, read_shape
from endmark.worker.engine.choosing import ChoosingEngine
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.masks import TokenMask
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.loader import load_engine
from endmark.worker.shapes.compiled import Shapes

_SCHEMA = (
    '{"type": "object", "properties": {"title": {"type": "string"}, "count": {"type": "integer"}, "tags":'
    ' {"type": "array", "items": {"type": "string"}}}, "required": ["title", "count", "tags"]}'
)
Mask = Callable[[Sequence[int], int], TokenMask]
_LABELS = '["positive", "negative", "neutral", "mixed"]'


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one kind: how many, tokens of each prompt, tokens of each answer."""

    rows: int
    prompt: int
    answer: int


def vocabulary_of(tokenizer: Any, size: int) -> Vocabulary:  # noqa: ANN401
    """Return the bytes of `size` tokens: a tokeniser's own, then random pairs of them."""
    tokens = list(Vocabulary.of(tokenizer).token_bytes)[:size]
    parts = [data for data in tokens if data and len(data) > 1]
    known, rng = set(tokens), random.Random(3)
    while len(tokens) < size:
        data = rng.choice(parts) + rng.choice(parts)
        if data not in known:
            known.add(data)
            tokens.append(data)
    return Vocabulary(tokens)


def requests(
    work: Work, mask: Callable[[int], Mask | None], vocabulary: Vocabulary, seed: int = 11
) -> Iterator[Request]:
    """Yield the rows; `mask` returns what makes the mask of a row, None for a row without one."""
    rng = random.Random(seed)
    words = [token for token, data in enumerate(vocabulary.token_bytes) if data.isalpha()][:30000]
    for key in range(work.rows):
        prompt = tuple(rng.choice(words) for _ in range(work.prompt))
        yield Request(key=key, prompt_token_ids=prompt, max_new_tokens=work.answer, stream=key, mask=mask(key))


def run(engine: Engine, rows: Sequence[Request]) -> dict[int, tuple[int, float]]:
    """Answer the rows; return the tokens of each by its key, and when it was done in seconds."""
    begun = time.perf_counter()
    for row in rows:
        engine.add(row)
    done: dict[int, tuple[int, float]] = {}
    while engine.has_work:
        for item in engine.step():
            done[item.key] = item.completion_tokens, time.perf_counter() - begun
    return done


def speed(done: dict[int, tuple[int, float]], keys: Sequence[int]) -> float:
    """Return tokens a second of some rows, until the last of them was done."""
    return sum(done[key][0] for key in keys) / max(done[key][1] for key in keys)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--tokens", type=Path, help="the folder of another tokeniser")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--answer", type=int, default=200, help="tokens of each answer")
    parser.add_argument("--label-rows", type=int, default=1000)
    options = parser.parse_args()
    loaded = load_engine(
        options.model, device="cuda" if torch.cuda.is_available() else "cpu", max_rows=options.rows
    )
    size = len(loaded.engine.vocabulary.token_bytes)
    tokenizer = AutoTokenizer.from_pretrained(options.tokens) if options.tokens else loaded.tokenizer
    vocabulary = vocabulary_of(tokenizer, size)
    ends = loaded.engine.eos_ids
    engine = Engine(loaded.runner, vocabulary, ends)
    shapes = Shapes(vocabulary, ends, memory=loaded.mask_memory)
    shape = read_shape(ShapeKind.JSON_SCHEMA, _SCHEMA, "schema")
    work = Work(options.rows, 128, options.answer)
    keys = range(options.rows)
    gc.collect()
    gc.freeze()  # as a worker does
    run(engine, list(requests(Work(options.rows, 128, 16), lambda _: shapes.maker(shape), vocabulary)))
    run(engine, list(requests(work, lambda _: None, vocabulary)))
    base = 0.0
    for name, every in (("none", 0), ("half", 2), ("all", 1), ("none again", 0)):
        shaped = [key for key in keys if every and key % every == 0]
        chosen = frozenset(shaped)
        rows = list(requests(work, lambda key: shapes.maker(shape) if key in chosen else None, vocabulary))  # noqa: B023
        done = run(engine, rows)
        parts = [("with a shape", shaped), ("without", [key for key in keys if key not in chosen])]
        for part, some in parts:
            if some:
                found = speed(done, some) * options.rows / len(some)
                base = base or found
                print(
                    f"{name}: rows {part}: {found:,.0f} tokens/s of a full batch, {found / base:.3f}", flush=True
                )
    _come_and_go(engine, shapes.maker(shape), Work(4 * options.rows, 128, options.answer), vocabulary)
    _labels(engine, shapes, Work(options.label_rows, 290, 8), vocabulary, tokenizer)


def _come_and_go(engine: Engine, maker: Mask, work: Work, vocabulary: Vocabulary) -> None:
    """Print the speed of rows whose budgets are from a fifth of the answer's to all of it."""
    rng = random.Random(5)
    budgets = [rng.randrange(work.answer // 5, work.answer) for _ in range(work.rows)]
    base = 0.0
    for name, every in (("none", 0), ("half", 2), ("all", 1)):
        rows = list(requests(work, lambda key: maker if every and key % every == 0 else None, vocabulary))  # noqa: B023
        done = run(engine, [replace(row, max_new_tokens=budgets[row.key]) for row in rows])
        found = speed(done, range(work.rows))
        base = base or found
        print(f"{work.rows} rows that come and go, {name}: {found:,.0f} tokens/s, {found / base:.3f}", flush=True)


def _labels(engine: Engine, shapes: Shapes, work: Work, vocabulary: Vocabulary, tokenizer: Any) -> None:  # noqa: ANN401
    """Print how many rows a second are answered by the scores of four labels, and by tokens that are drawn."""
    shape: Shape = read_shape(ShapeKind.CHOICES, _LABELS, "labels")
    choices = shapes.choices(shape, lambda texts: [tokenizer(text)["input_ids"] for text in texts])
    chooser = ChoosingEngine(engine)
    plain = 0.0
    # Each has prompts of its own, or those before would have computed them.
    for seed, (name, asked) in enumerate(
        (("warm", choices), ("warm", None), ("plain", None), ("labels", choices))
    ):
        rows = list(requests(work, lambda _: None, vocabulary, seed=100 + seed))
        rows = rows[: 64 if name == "warm" else None]
        ends, engine.eos_ids = engine.eos_ids, engine.eos_ids if asked else frozenset()
        begun = time.perf_counter()
        for row in rows:
            chooser.add(replace(row, choices=asked))
        done = 0
        while chooser.has_work:
            done += len(chooser.step())
        found = done / (time.perf_counter() - begun)
        engine.eos_ids = ends
        if name == "plain":
            plain = found
            print(f"{done} rows of {work.prompt} tokens, {work.answer} drawn: {found:,.1f} rows/s", flush=True)
        elif name == "labels":
            said = f"{found:,.1f} rows/s, {found / plain:.3f}"
            print(f"{done} rows of {work.prompt} tokens scored with four labels: {said}", flush=True)


if __name__ == "__main__":
    main()
