"""EOS-probability curves as inline SVG, on a logarithmic scale; styled by the page that holds them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 220
LEFT, BOTTOM, TOP, RIGHT = 46, 26, 10, 6
_FLOOR = 1e-6  # the least probability drawn
_TICKS = ((1.0, "100 %"), (1e-2, "1 %"), (1e-4, "0.01 %"), (1e-6, "0.0001 %"))
LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True, slots=True)
class Curve:
    """One answer's EOS probability, token by token."""

    label: str
    probs: Sequence[float]
    cut: bool  # the answer is truncated
    ended: bool  # the model ended it: a dot stands at the end


def drawing(curves: Iterable[Curve], budget: int, label: str) -> str:
    """Return one drawing of all curves; cut answers in the warning colour, before the others' lines."""
    lines = [_line(curve, budget) for curve in sorted(curves, key=lambda curve: curve.cut)]
    return frame("".join(lines), budget, label)


def frame(curves: str, budget: int, label: str) -> str:
    """Return the drawing around the curves: axes, ticks and their labels."""
    ticks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{_y(value):.1f}" y2="{_y(value):.1f}"/>'
        f'<text x="{LEFT - 5}" y="{_y(value) + 4:.1f}" text-anchor="end">{text}</text>'
        for value, text in _TICKS
    )
    steps = "".join(
        f'<text x="{_x(step, budget):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{step}</text>'
        for step in sorted({0, budget // 4, budget // 2, 3 * budget // 4})
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{ticks}{steps}{curves}</svg>'
    )


def encoded(probs: Sequence[float]) -> str:
    """Return a curve as a letter a step, its height in 64 levels, as a script in the page draws it."""
    last = len(LEVELS) - 1
    return "".join(LEVELS[round(_depth(prob) * last)] for prob in probs)


def _line(curve: Curve, budget: int) -> str:
    """Return one curve, and a dot where the model ended the answer."""
    points = [(_x(step, budget), _y(prob)) for step, prob in enumerate(curve.probs)]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    kind = "cut" if curve.cut else "ended"
    x, y = points[-1] if points else (0.0, 0.0)
    dot = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' if curve.ended and points else ""
    return f'<g><title>{escape(curve.label[:80])}</title><polyline class="{kind}" points="{drawn}"/>{dot}</g>'


def _x(step: int, budget: int) -> float:
    """Return where a step stands."""
    return LEFT + step / max(1, budget) * (WIDTH - LEFT - RIGHT)


def _y(prob: float) -> float:
    """Return where a probability stands, on a logarithmic scale."""
    return TOP + _depth(prob) * (HEIGHT - TOP - BOTTOM)


def _depth(prob: float) -> float:
    """Return how far below certainty a probability stands: 0 for 1, 1 for the least that is drawn."""
    return math.log(max(min(prob, 1.0), _FLOOR)) / math.log(_FLOOR)
