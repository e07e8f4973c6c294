"""What a verdict costs: `python benchmarks/verdicts.py` prints the time of `ending_of` by kind of answer.

The answers are those that the tests of loops have labelled, most of them of a real model, on their own and behind
four ordinary ones, which makes them as long as answers of 500 tokens.
"""

import argparse
import json
import random
import statistics
import timeit
from pathlib import Path

from endmark.jobs.endings import ending_of
from endmark.jobs.endings.loops import loop_near_end

SET = Path(__file__).resolve().parents[1] / "tests" / "unit" / "loops"
_BEFORE = 4  # ordinary answers before one, in the longer texts


def kind_of(text: str) -> str:
    """Return what a text is for the table."""
    found = loop_near_end(text)
    if found is None:
        return "ordinary"
    copies = text[found.start : found.kept], text[found.kept : 2 * found.kept - found.start]
    return "loop to the letter" if copies[0] == copies[1] else "near loop"


def row(name: str, texts: list[str], repeat: int) -> str:
    """Return the line of some texts in Markdown: microseconds of each text's quickest verdict."""
    costs = sorted(
        1e6
        * min(timeit.repeat(lambda text=text: ending_of(text), loop_near_end.cache_clear, number=1, repeat=repeat))
        for text in texts
    )
    size = statistics.median(map(len, texts))
    high = costs[int(0.95 * (len(costs) - 1))]
    return (
        f"| {name} | {len(texts)} | {size:.0f} | {statistics.median(costs):.0f} | {high:.0f} | {costs[-1]:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20, help="of each text; the quickest counts")
    repeat = parser.parse_args().repeat
    kinds: dict[str, list[str]] = {"ordinary": [], "loop to the letter": [], "near loop": []}
    for path in sorted(SET.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            text = json.loads(line)["text"]
            kinds[kind_of(text)].append(text)
    print("| answers | count | characters | median µs | 95 % | most |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    draw = random.Random(0)
    for kind, texts in kinds.items():
        print(row(kind, texts, repeat))
        longer = ["\n\n".join([*draw.sample(kinds["ordinary"], _BEFORE), text]) for text in texts]
        print(row(f"{kind}, behind {_BEFORE} others", longer, repeat))


if __name__ == "__main__":
    main()
