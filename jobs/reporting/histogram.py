"""How long answers are, as inline SVG: complete ones and the others in one bar."""

from html import escape

from endmark.jobs.reporting.arms import Arm

WIDTH, HEIGHT = 360, 120
_BARS, _BOTTOM, _TOP = 24, 18, 6


def histogram(arm: Arm, longest: int) -> str:
    """Return the drawing of an arm's lengths.

    Args:
        longest: tokens at the right edge, the same for all arms.
    """
    width = max(1, -(-(longest + 1) // _BARS))  # tokens of one bar
    heights = {kind: [0] * _BARS for kind in (True, False)}
    for complete, lengths in arm.lengths.items():
        for size, count in lengths.items():
            heights[complete][min(_BARS - 1, size // width)] += count
    most = max(map(sum, zip(heights[True], heights[False], strict=True)), default=0) or 1
    bars = []
    for index in range(_BARS):
        base = float(HEIGHT - _BOTTOM)
        for kind, name in ((True, "ended"), (False, "cut")):
            height = heights[kind][index] / most * (HEIGHT - _BOTTOM - _TOP)
            base -= height
            if height:
                x = index * WIDTH / _BARS
                title = f"{index * width} to {(index + 1) * width - 1} tokens: {heights[kind][index]}"
                bars.append(
                    f'<rect class="{name}" x="{x + 1:.1f}" y="{base:.1f}" width="{WIDTH / _BARS - 2:.1f}"'
                    f' height="{height:.1f}"><title>{title}</title></rect>'
                )
    label = f"Lengths of the answers of {arm.label}, 0 to {longest} tokens, at most {most} in a bar"
    return (
        f'<svg class="lengths" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<line class="grid" x1="0" x2="{WIDTH}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}"/>{"".join(bars)}'
        f'<text x="0" y="{HEIGHT - 4}">0</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{width * _BARS} tokens</text></svg>'
    )
