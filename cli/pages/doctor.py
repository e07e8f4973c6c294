"""What the doctor has found, as a page: the findings, the EOS probability of its sample, and the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from endmark.cli.pages.curves import axes, band, points, stretch
from endmark.cli.pages.document import page
from endmark.cli.pages.findings import summary
from endmark.jobs.vocabulary import End


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """One answer of the sample as the page shows it."""

    prompt: str
    text: str  # or why there is none
    end: End
    tokens: int
    most: float  # its highest EOS probability
    curve: str  # points

    @property
    def kind(self) -> str:
        """The class in the stylesheet: on this page, `whole` is any answer that was not cut."""
        return kind_of(self.end)


def kind_of(end: End) -> str:
    """Return the class in the stylesheet for a way to end."""
    return "none" if not end.reason.has_answer else "cut" if end.reason.truncated else "whole"


def write_page(result: Mapping[str, Any]) -> str:
    """Return the page as HTML, from what the doctor's process has told."""
    rows: Sequence[Mapping[str, Any]] = [
        {**row, "eos_probs": _numbers(row["eos_probs"])} for row in result["rows"]
    ]
    steps = max((len(row["eos_probs"]) for row in rows), default=1)
    answers = [_answer(row, steps) for row in rows]
    curves: dict[str, list[Sequence[float]]] = {"whole": [], "cut": []}
    for row, answer in zip(rows, answers, strict=True):
        if answer.kind in curves:
            curves[answer.kind].append(row["eos_probs"])
    groups = [(kind, made) for kind, own in curves.items() if (made := band(own, steps)) is not None]
    return page(
        "doctor.html",
        result=result,
        summary=summary(result),
        answers=answers,
        axes=axes(steps),
        stretch=stretch(steps),
        groups=groups,
    )


def _numbers(probs: Sequence[float | None]) -> list[float]:
    """Return a curve up to where the model's scores were no numbers, which JSON has as null."""
    return [prob for prob in takewhile(lambda prob: prob is not None, probs) if prob is not None]


def _answer(row: Mapping[str, Any], steps: int) -> SampledAnswer:
    """Return one answer."""
    return SampledAnswer(
        prompt=row["prompt"],
        text=row["error"] or row["response"],
        end=End.of(row["finish_reason"], row["eos_source"]),
        tokens=row["completion_tokens"],
        most=max(row["eos_probs"], default=0.0),
        curve=points(row["eos_probs"], steps),
    )
