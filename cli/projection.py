"""From a sample that was run to its dataset: tokens, time and cost, with intervals."""

from dataclasses import dataclass
from math import sqrt

from endmark.cli.pages.intervals import Interval, mean_of
from endmark.cli.pages.report import span
from endmark.db.summaries import TokenSums
from endmark.jobs.spelling import speed


@dataclass(frozen=True, slots=True)
class Projection:
    """What a dataset would take; intervals are of 95 %, and hold what the draw of the sample leaves open."""

    rows: int  # of the dataset
    sample: int  # of them were run
    prompt_tokens: Interval
    completion_tokens: Interval
    seconds: Interval | None  # None where nothing is known of the speed
    tokens_per_second: float
    devices: int  # that ran the sample
    cost: Interval | None  # in the currency of the price; None without a price


def project(
    sums: TokenSums, *, rows: int, tokens_per_second: float, devices: int, price: float | None
) -> Projection:
    """Return what a dataset would take.

    Time is tokens of answers by the speed of the sample. A larger job keeps a card fuller than a sample does, so
    that it takes less rather than more.

    Args:
        sums: over the rows of the sample.
        rows: of the dataset.
        tokens_per_second: of the sample, over all devices.
        devices: that ran it.
        price: of one device for an hour.
    """
    left = sqrt(max(0.0, 1 - sums.rows / rows))  # of what is drawn whole, nothing is open
    prompts = _times(_narrowed(mean_of(sums.prompt_tokens, sums.prompt_squares, sums.rows), left), rows)
    answers = _times(_narrowed(mean_of(sums.completion_tokens, sums.completion_squares, sums.rows), left), rows)
    seconds = _times(answers, 1 / tokens_per_second) if tokens_per_second else None
    cost = _times(seconds, devices * price / 3600) if seconds is not None and price is not None else None
    return Projection(rows, sums.rows, prompts, answers, seconds, tokens_per_second, devices, cost)


def _narrowed(found: Interval, by: float) -> Interval:
    """Return an interval that is a part as wide."""
    value = found.value
    return Interval(value, value - by * (value - found.low), value + by * (found.high - value))


def _times(found: Interval, factor: float) -> Interval:
    """Return an interval of as many times as much."""
    return Interval(found.value * factor, found.low * factor, found.high * factor)


def told(found: Projection, price: float | None) -> str:
    """Return the projection in lines."""
    lines = [
        ("rows", f"{found.rows:,}, of which {found.sample:,} were run"),
        ("prompts", _tokens(found.prompt_tokens, found.rows)),
        ("answers", _tokens(found.completion_tokens, found.rows)),
    ]
    if found.seconds is not None:
        devices = "1 device" if found.devices == 1 else f"{found.devices} devices"
        time = f"{span(found.seconds.value)} ({span(found.seconds.low)} to {span(found.seconds.high)})"
        lines.append(("time", f"{time} on {devices}, at {speed(found.tokens_per_second)}"))
    if found.cost is not None:
        cost = f"{found.cost.value:,.2f} ({found.cost.low:,.2f} to {found.cost.high:,.2f})"
        lines.append(("cost", f"{cost} at {price:,.2f} for a device and hour"))
    return "\n".join(f"{name:<9} {text}" for name, text in lines)


def _tokens(found: Interval, rows: int) -> str:
    """Return how many tokens there are, all together and in a row."""
    each = f"{found.value / rows:,.0f} in a row"
    return f"{found.value:,.0f} tokens ({found.low:,.0f} to {found.high:,.0f}), {each}"
