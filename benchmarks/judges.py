"""What two judges say of the same answers, the own one and one written apart: `python benchmarks/judges.py`.

Without files both judge the answers that were read by eye (tests/unit/loops): recall and precision of each, and
beside them those over which the two disagreed, kept apart as they are the hard ones of 6,209. With files that
`benchmarks/whole.py --answers FILE` has written: which share of them either calls complete, or a loop.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from second_judge import is_loop, judge_of

from endmark.jobs.endings import ending_of
from endmark.jobs.endings.loops import loop_near_end
from endmark.jobs.vocabulary import Ending

_READ = Path(__file__).resolve().parents[1] / "tests" / "unit" / "loops"
_DISPUTED = "disputed"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def scores(answers: Sequence[dict[str, Any]], says: Callable[[str], bool]) -> str:
    """Return a judge's recall and precision over answers with their `text` and whether it is a `loop`."""
    found = [(says(answer["text"]), answer["loop"]) for answer in answers]
    hits = sum(said and true for said, true in found)
    loops, said = sum(true for _, true in found), sum(said for said, _ in found)
    return f"recall {hits / loops:.3f} of {loops}, precision {hits / said:.3f} of {said}"


def judge_labelled() -> None:
    """Print how both judges do on the answers that were read by eye."""
    files = {file.stem: read_lines(file) for file in sorted(_READ.glob("*.jsonl"))}
    parts = {
        "read by eye": [answer for name, answers in files.items() if name != _DISPUTED for answer in answers],
        "read, as the judges disagreed": files[_DISPUTED],
    }
    for name, answers in parts.items():
        print(f"{len(answers)} answers {name}:")
        print(f"  ours:       {scores(answers, lambda text: loop_near_end(text) is not None)}")
        print(f"  the second: {scores(answers, is_loop)}")


def judge_answers(answers: Sequence[dict[str, Any]], disputed: Path | None) -> None:
    """Print which share of answers either judge calls complete or a loop; write those where they differ."""
    verdicts = [judge_of(answer["text"], natural=answer["by_itself"]) for answer in answers]
    pairs = list(zip(answers, verdicts, strict=True))
    differ = [pair for pair in pairs if _differ(*pair)]
    count = len(answers)
    for name, whole, loops in (
        ("ours", sum(answer["complete"] for answer in answers), sum(map(_loops, answers))),
        ("the second", verdicts.count("whole"), verdicts.count("loop")),
        (
            "either",
            sum(a["complete"] and v == "whole" for a, v in pairs),
            sum(_loops(a) or v == "loop" for a, v in pairs),
        ),
    ):
        print(f"  {name + ':':<12}complete {whole / count:6.1%}   in a loop {loops / count:5.1%} ({loops})")
    print(f"  they differ over {len(differ)} of {count}")
    if disputed is not None:
        with disputed.open("a", encoding="utf-8") as file:
            for answer, verdict in differ:
                told = {**answer, "ours": ending_of(answer["text"]), "second": verdict}
                file.write(f"{json.dumps(told, ensure_ascii=False)}\n")


def _loops(answer: dict[str, Any]) -> bool:
    return ending_of(answer["text"]) is Ending.LOOP


def _differ(answer: dict[str, Any], verdict: str) -> bool:
    """Whether the judges differ over an answer."""
    return _loops(answer) != (verdict == "loop") or answer["complete"] != (verdict == "whole")


def main() -> None:
    """Judge what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="answers, as `whole.py --answers` writes them")
    parser.add_argument("--disputed", type=Path, metavar="FILE", help="add answers there over which they differ")
    options = parser.parse_args()
    if not options.files:
        judge_labelled()
    for file in options.files:
        answers = read_lines(file)
        for temperature in sorted({answer["temperature"] for answer in answers}):
            print(f"{file.name}, temperature {temperature:g}:")
            own = [answer for answer in answers if answer["temperature"] == temperature]
            judge_answers(own, options.disputed)


if __name__ == "__main__":
    main()
