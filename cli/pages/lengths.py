"""How long answers are, as bars: complete ones and the others in one."""

from dataclasses import dataclass

from endmark.cli.pages.arms import Arm

WIDTH, HEIGHT = 400, 130
_BARS, BOTTOM, _TOP = 24, 20, 18  # bars at most


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a bar, in the units of a drawing of `WIDTH` × `HEIGHT`."""

    complete: bool
    x: float
    y: float
    width: float
    height: float
    told: str  # what it stands for


@dataclass(frozen=True, slots=True)
class Lengths:
    """The drawing of an arm's lengths."""

    bars: tuple[Bar, ...]
    edge: int  # tokens at the right edge
    most: int  # answers in the highest bar


def lengths(arm: Arm, longest: int) -> Lengths:
    """Return the drawing of an arm's lengths.

    Args:
        longest: tokens of the longest answer of all arms, which the right edge takes in.
    """
    size = max(1, -(-(longest + 1) // _BARS))  # tokens of one bar
    number = longest // size + 1
    heights = {kind: [0] * number for kind in (True, False)}
    for complete, counted in arm.lengths.items():
        for tokens, count in counted.items():
            heights[complete][tokens // size] += count
    most = max(map(sum, zip(heights[True], heights[False], strict=True)), default=0)
    bars = []
    for index in range(number):
        base = float(HEIGHT - BOTTOM)
        for kind, name in ((True, "complete"), (False, "not complete")):
            count = heights[kind][index]
            if not count:
                continue
            height = count / most * (HEIGHT - BOTTOM - _TOP)
            base -= height
            told = f"{index * size} to {(index + 1) * size - 1} tokens: {count} {name}"
            x, width = index * WIDTH / number + 1, WIDTH / number - 2
            bars.append(Bar(kind, round(x, 1), round(base, 1), round(width, 1), round(height, 1), told))
    return Lengths(tuple(bars), size * number, most)
