"""EOS-probability curves on a logarithmic scale: one alone, or a band over many.

What is returned are numbers for the templates, in the units of a drawing of `WIDTH` × `HEIGHT`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import quantiles

WIDTH, HEIGHT = 400, 190
LEFT, BOTTOM, TOP, RIGHT = 62, 24, 10, 6
_FLOOR = 1e-6  # the least probability drawn
_TICKS = ((1.0, "100 %"), (1e-2, "1 %"), (1e-4, "0.01 %"), (1e-6, "0.0001 %"))
LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_STRETCHES = 24  # parts of the axis, of each of which an answer's highest probability counts
_ENOUGH = 0.1  # share of a group's answers that must be as long, for the band to go on


@dataclass(frozen=True, slots=True)
class Axes:
    """The axes of a drawing that reaches `steps` tokens to the right: places and texts of their marks."""

    steps: int
    levels: tuple[tuple[float, str], ...]  # y, text
    marks: tuple[tuple[float, int], ...]  # x, tokens


@dataclass(frozen=True, slots=True)
class Band:
    """Many curves as one: the middle half, and the median, of the peaks that the answers have in each stretch."""

    curves: int
    area: str  # points of the outline of the middle half
    median: str  # points of the line


def axes(steps: int) -> Axes:
    """Return the axes for answers of up to so many tokens."""
    marks = sorted({0, steps // 4, steps // 2, steps})  # a word stands at the last, and takes the room of one
    return Axes(
        steps,
        tuple((round(_y(value), 1), text) for value, text in _TICKS),
        tuple((round(_x(mark, steps), 1), mark) for mark in marks),
    )


def band(curves: Iterable[Sequence[float]], steps: int) -> Band | None:
    """Return the band over some answers' curves; None where no answer has one.

    EOS is probable at single tokens, where a text may end, and hardly between them, so it is peaks that count.
    It ends where less than a tenth of the answers are still going on: what is left there says nothing of them all.
    """
    kept = [curve for curve in curves if curve]
    if not kept:
        return None
    size = stretch(steps)
    low: list[tuple[float, float]] = []
    middle: list[tuple[float, float]] = []
    high: list[tuple[float, float]] = []
    for start in range(0, max(map(len, kept)), size):
        longer = [curve for curve in kept if len(curve) > start]
        if len(longer) < _ENOUGH * len(kept):
            break
        values = [max(curve[start : start + size]) for curve in longer]
        quarters = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        x = _x(start + min(size, max(map(len, longer)) - start) / 2, steps)
        for line, value in zip((low, middle, high), quarters, strict=True):
            line.append((x, _y(value)))
    return Band(len(kept), _points(high + low[::-1]), _points(middle))


def stretch(steps: int) -> int:
    """Return how many tokens a stretch of a band has."""
    return max(1, -(-steps // _STRETCHES))


def points(probs: Sequence[float], steps: int) -> str:
    """Return one answer's curve."""
    return _points([(_x(step, steps), _y(prob)) for step, prob in enumerate(probs)])


def encoded(probs: Sequence[float]) -> str:
    """Return a curve as a letter a step, its height in 64 levels, as a script in the page draws it."""
    last = len(LEVELS) - 1
    return "".join(LEVELS[round(_depth(prob) * last)] for prob in probs)


def _points(places: Iterable[tuple[float, float]]) -> str:
    """Return points as SVG writes them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _x(step: float, steps: int) -> float:
    """Return where a step stands."""
    return LEFT + step / max(1, steps) * (WIDTH - LEFT - RIGHT)


def _y(prob: float) -> float:
    """Return where a probability stands, on a logarithmic scale."""
    return TOP + _depth(prob) * (HEIGHT - TOP - BOTTOM)


def _depth(prob: float) -> float:
    """Return how far below certainty a probability stands: 0 for 1, 1 for the least that is drawn."""
    return math.log(max(min(prob, 1.0), _FLOOR)) / math.log(_FLOOR)
