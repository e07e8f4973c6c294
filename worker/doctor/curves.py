"""EOS-probability curves as inline SVG."""

import math
from html import escape

from worker.doctor.evidence import RowEvidence

WIDTH, HEIGHT = 720, 220
_LEFT, _BOTTOM, _TOP = 46, 26, 10
_FLOOR = 1e-6  # the least probability drawn
_TICKS = ((1.0, "100 %"), (1e-2, "1 %"), (1e-4, "0.01 %"), (1e-6, "0.0001 %"))


def overview(rows: tuple[RowEvidence, ...], budget: int) -> str:
    """Return one drawing of all answers' curves; cut answers in the warning colour."""
    lines = [_line(row, budget) for row in sorted(rows, key=lambda row: row.cut)]
    return _frame("".join(lines), budget, f"EOS probability of {len(rows)} answers, token by token")


def single(row: RowEvidence, budget: int) -> str:
    """Return the drawing of one answer's curve."""
    return _frame(_line(row, budget), budget, "EOS probability, token by token")


def _line(row: RowEvidence, budget: int) -> str:
    """Return one curve, and a dot where the model ended the answer."""
    points = [(_x(step, budget), _y(prob)) for step, prob in enumerate(row.probs)]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    kind = "cut" if row.cut else "ended"
    dot = f'<circle class="{kind}" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="3"/>' if row.ended else ""
    return f'<g><title>{escape(row.prompt[:80])}</title><polyline class="{kind}" points="{drawn}"/>{dot}</g>'


def _frame(curves: str, budget: int, label: str) -> str:
    """Return the drawing around the curves: axes, ticks and their labels."""
    ticks = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH}" y1="{_y(value):.1f}" y2="{_y(value):.1f}"/>'
        f'<text x="{_LEFT - 5}" y="{_y(value) + 4:.1f}" text-anchor="end">{text}</text>'
        for value, text in _TICKS
    )
    steps = "".join(
        f'<text x="{_x(step, budget):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{step}</text>'
        for step in sorted({0, budget // 4, budget // 2, 3 * budget // 4})
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{ticks}{steps}{curves}</svg>'
    )


def _x(step: int, budget: int) -> float:
    """Return where a step stands."""
    return _LEFT + step / max(1, budget) * (WIDTH - _LEFT - 6)


def _y(prob: float) -> float:
    """Return where a probability stands, on a logarithmic scale."""
    share = math.log(max(prob, _FLOOR)) / math.log(_FLOOR)
    return _TOP + share * (HEIGHT - _TOP - _BOTTOM)
