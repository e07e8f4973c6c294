"""Fuzzed schemas, expressions and grammars: `python benchmarks/fuzz_shapes.py --count 50000` prints how they fare.

Each is read as a job's would be, and either refused with a reason or compiled for a vocabulary of bytes and
answered by random tokens within a random budget. Whatever else happens is a fault, which is printed, and the exit
code is 1.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from copy import deepcopy
from typing import Any

import numpy as np
from random_schemas import random_schema

from endmark.jobs.errors import SpecError
from endmark.jobs.shapes import Shape, ShapeKind, read_shape
from endmark.jobs.shapes.validity import is_valid
from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes.compiled import Shapes

END = 256
BYTES = Vocabulary([*(bytes([byte]) for byte in range(256)), b""])
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e400,
    2**70,
    "",
    "a",
    "(",
    "\\",
    "é",
    [],
    {},
    [1, 1],
    {"a": {}},
    "#",
    "#/$defs/x",
)
_KEYWORDS = (
    *("type", "properties", "required", "items", "enum", "const", "pattern", "format", "$ref", "$defs", "anyOf"),
    *("oneOf", "allOf", "not", "if", "minLength", "maxLength", "minimum", "maximum", "multipleOf", "minItems"),
    *(
        "maxItems",
        "uniqueItems",
        "additionalProperties",
        "patternProperties",
        "prefixItems",
        "$schema",
        "x-guidance",
    ),
)
_PIECES = (
    "a",
    "[a-z]",
    "(",
    ")",
    "|",
    "*",
    "+",
    "?",
    "{2}",
    "{3,1}",
    "\\d",
    "\\b",
    "^",
    "$",
    ".",
    "é",
    "\\",
    "[",
    "(?=",
    "(?i)",
)
_LINES = (
    "start: a",
    "a: b | c",
    'b: "x"',
    "c: /[0-9]+/",
    'start: "y" a',
    "a: a a",
    "%import common.INT",
    'd: "',
    "a:",
    "// x",
)


def fuzzed(rng: random.Random) -> tuple[ShapeKind, str]:
    """Return a shape as a careless user, or a hostile one, might write it."""
    kind = rng.choice([ShapeKind.JSON_SCHEMA, ShapeKind.JSON_SCHEMA, *ShapeKind])
    if kind is ShapeKind.REGEX:
        return kind, "".join(rng.choices(_PIECES, k=rng.randint(1, 9)))
    if kind is ShapeKind.GRAMMAR:
        return kind, "\n".join(rng.choices(_LINES, k=rng.randint(1, 6)))
    if kind is ShapeKind.CHOICES:
        return kind, ",".join("".join(rng.choices(_PIECES, k=rng.randint(0, 3))) for _ in range(rng.randint(1, 5)))
    schema = random_schema(rng)
    for _ in range(rng.randint(0, 3)):
        _spoil(rng, schema)
    text = json.dumps(schema)
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice('{}[]",:\0') + text[at + 1 :]
    return kind, text


def _spoil(rng: random.Random, schema: dict[str, Any]) -> None:
    """Put a keyword with some value somewhere into a schema."""
    place: Any = schema
    while rng.random() < 0.6:
        inner = [item for item in place.values() if isinstance(item, dict)]
        if not inner:
            break
        place = rng.choice(inner)
    place[rng.choice(_KEYWORDS)] = deepcopy(rng.choice([*_VALUES, random_schema(rng, 1)]))


def answered(shapes: Shapes, shape: Shape, rng: random.Random) -> str:
    """Answer in a shape with random tokens; return how it fared."""
    fewest = shapes.fewest_tokens(shape)
    budget = rng.randint(1, 200) if fewest is None else fewest + rng.randint(0, 30)
    mask, text = shapes.maker(shape)((), budget), b""
    while len(text) < budget:
        bits = np.unpackbits(mask.words().view(np.uint8), bitorder="little")
        if mask.refusal:
            return "failed with a reason"
        if mask.surplus:
            text = text[: len(text) - mask.surplus]
            mask.give_back()
            continue
        token = int(rng.choice(np.nonzero(bits)[0]))
        if token >= END:
            break
        text += bytes([token])
        mask.see(token)
    else:
        return "cut, as no way was found" if fewest is None else "CUT"
    valid = is_valid(shape, text.decode("utf-8", "replace"))
    return "valid" if valid else "NOT VALID"


def main() -> None:
    """Print the counts, and each fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    shapes, counts, slowest = Shapes(BYTES, {END}), Counter[str](), 0.0
    for _ in range(arguments.count):
        kind, text = fuzzed(rng)
        began = time.monotonic()
        try:
            said = answered(shapes, read_shape(kind, text, "x"), rng)
        except SpecError:
            said = "refused"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            said = f"FAULT {type(error).__name__}".upper()
            print(f"{error}")
        counts[said] += 1
        slowest = max(slowest, time.monotonic() - began)
        if said.isupper():
            print(f"{said}: {kind}: {text!r}", flush=True)
    print(f"{arguments.count:,} in all, the slowest in {slowest:.1f} s")
    for said, count in counts.most_common():
        print(f"{count:>7,} {said}")
    sys.exit(any(said.isupper() for said in counts))


if __name__ == "__main__":
    main()
