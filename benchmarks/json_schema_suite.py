"""The official JSON Schema test suite against shapes: `python benchmarks/json_schema_suite.py FOLDER` prints it.

FOLDER is the suite's `tests/draft2020-12`; jsonschema's source archive holds it (`pip download --no-deps
--no-binary jsonschema jsonschema`, then `json/tests/draft2020-12` in it). Each schema is read as a job's would be.
Of those that are taken, a text that the mask lets through must be valid, and a valid text should be let through.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.shapes import ShapeKind, read_shape
from endmark.jobs.shapes.grammar import grammar_of
from endmark.jobs.shapes.matching import accepts
from endmark.jobs.shapes.validity import is_valid


def judged(group: dict[str, Any], found: Counter[str]) -> list[str]:
    """Count how the tests of one schema fare; return what is wrong, a line each."""
    try:
        shape = read_shape(ShapeKind.JSON_SCHEMA, json.dumps(group["schema"]), "schema")
    except SpecError:
        found["schemas refused"] += 1
        return []
    found["schemas taken"] += 1
    grammar, wrong = grammar_of(shape), []
    for test in group["tests"]:
        text = json.dumps(test["data"], ensure_ascii=False)
        through, valid = accepts(grammar, text.encode()), is_valid(shape, text)
        if valid != test["valid"]:
            found["verdicts that differ from the suite"] += 1
            wrong.append(f"{group['description']}: {test['description']}: `valid` says {valid}")
        if through and not valid:
            found["let through though not valid"] += 1
            wrong.append(f"{group['description']}: {test['description']}: let through: {text}")
        found["valid texts kept out" if valid and not through else "texts as they should be"] += 1
    return wrong


def main() -> None:
    """Print the counts for all files, and each wrong verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    found: Counter[str] = Counter()
    for path in sorted(options.folder.glob("*.json")):
        before, wrong = found.copy(), []
        for group in json.loads(path.read_text(encoding="utf-8")):
            wrong += judged(group, found)
        print(f"{path.stem}: {', '.join(f'{count} {name}' for name, count in (found - before).items())}")
        for line in wrong:
            print(f"  {line}")
    print(f"\nin all: {', '.join(f'{count} {name}' for name, count in found.items())}")


if __name__ == "__main__":
    main()
