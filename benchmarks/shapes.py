"""How many answers are whole values of their shape, with the close and without: `python benchmarks/shapes.py`.

Random schemas, or with `--everyday` sixty of kinds that people send, with budgets from the fewest tokens of a
value upwards, at temperatures 0 and 1.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence

import torch
from everyday_schemas import SCHEMAS, Schema
from random_schemas import random_schema

from endmark.jobs.errors import SpecError
from endmark.jobs.prompts import RowRequest
from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.shapes import Shape, ShapeKind, read_shape
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import as_percent
from endmark.jobs.vocabulary import Attempt, EosSource, StoredRow
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.models.loader import load_engine
from endmark.worker.service.prompting import Prompt, Prompter
from endmark.worker.service.rows import RowRun
from endmark.worker.shapes.compiled import Shapes

_MORE = (0, 0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)  # tokens above the fewest
_PROMPTS = ("What can I do in Paris?", "Tell me about Lisbon.", "Why is the sky blue?", "Name three fruits.")


def draw(count: int, seed: int, shapes: Shapes, known: Sequence[Schema] = ()) -> list[tuple[Shape, int]]:
    """Return shapes that can be kept, random ones if none are given, each with a budget."""
    rng = random.Random(seed)
    found: list[tuple[Shape, int]] = []
    for schema in known or iter(lambda: random_schema(rng), None):
        if len(found) == count:
            break
        try:
            shape = read_shape(ShapeKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False), "schema")
        except SpecError as error:
            if known:
                print(f"refused: {error}")
            continue  # no value of a random one exists
        fewest = shapes.fewest_tokens(shape)
        if fewest is None:
            print(f"no value found: {shape.text}")
            continue
        found.append((shape, fewest + rng.choice(_MORE)))
    return found


def run(loaded: LoadedEngine, shapes: Shapes, work: Sequence[tuple[Shape, int]], heat: float) -> list[Attempt]:
    """Answer a prompt in each shape."""
    prompter = Prompter(loaded.tokenizer, shapes)
    prompts = []
    for index, (shape, budget) in enumerate(work):
        spec = GenerationSpec(max_new_tokens=budget, shape=shape, sampling=Sampling(temperature=heat, seed=index))
        prompts.append(Prompt(spec, RowRequest(_PROMPTS[index % len(_PROMPTS)], None, {})))
    rows = [RowRun(StoredRow(key, (), 0, 0), prompt) for key, prompt in enumerate(prompter.encode(prompts))]
    for key, row in enumerate(rows):
        loaded.engine.add(row.first_request(key))
    while loaded.engine.has_work:
        for finished in loaded.engine.step():
            rows[finished.key].conclude(finished)
    return [row.outcome().attempts[-1] for row in rows]


def main() -> None:
    """Print a line for each temperature, with the close and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--schemas", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--everyday", action="store_true", help="those of everyday_schemas.py")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_engine(arguments.model, device="cuda" if torch.cuda.is_available() else "cpu")
    shapes, plain = (
        Shapes(loaded.engine.vocabulary, loaded.engine.eos_ids, closes=closes) for closes in (True, False)
    )
    began = time.monotonic()
    work = draw(arguments.schemas, arguments.seed, shapes, SCHEMAS if arguments.everyday else ())
    print(f"{len(work)} schemas compiled, their shortest ways found, in {time.monotonic() - began:.1f} s")
    print("| temperature | close | valid | natural | forced | cut | failed | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for heat in (0.0, 1.0):
        for name, made in (("yes", shapes), ("no", plain)):
            began = time.monotonic()
            found = run(loaded, made, work, heat)
            sources = [item.verdict.eos_source for item in found]
            figures = [
                sum(bool(item.valid) for item in found) / len(found),
                sources.count(EosSource.NATURAL) / len(found),
                sources.count(EosSource.FORCED) / len(found),
                sum(item.verdict.truncated for item in found) / len(found),
                sum(item.verdict.end.failed for item in found) / len(found),
            ]
            shown = " | ".join(as_percent(figure, 1) for figure in figures)
            print(f"| {heat:g} | {name} | {shown} | {time.monotonic() - began:.0f} |", flush=True)
            for item, (shape, budget) in zip(found, work, strict=True):
                if made is shapes and not item.valid:
                    print(f"  not valid: {shape.text} within {budget}: {item.text!r} {item.verdict}")


if __name__ == "__main__":
    main()
