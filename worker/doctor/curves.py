"""The curves of the answers that the doctor has seen, drawn as the reports draw them."""

from collections.abc import Sequence

from endmark.jobs.reporting.curves import Curve, drawing
from endmark.worker.doctor.evidence import RowEvidence


def overview(rows: Sequence[RowEvidence], budget: int) -> str:
    """Return one drawing of all answers' curves."""
    return drawing(map(_curve, rows), budget, f"EOS probability of {len(rows)} answers, token by token")


def single(row: RowEvidence, budget: int) -> str:
    """Return the drawing of one answer's curve."""
    return drawing([_curve(row)], budget, "EOS probability, token by token")


def _curve(row: RowEvidence) -> Curve:
    """Return an answer's curve."""
    return Curve(row.prompt, row.probs, cut=row.cut, ended=row.ended)
