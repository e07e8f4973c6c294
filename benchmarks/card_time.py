"""What a piece of work takes on a card, by the card's own events."""

import statistics
from collections.abc import Callable

import torch


def milliseconds(run: Callable[[], object], times: int, dropped: int = 0) -> float:
    """Return the median of so many runs behind `dropped` first ones."""
    taken = []
    for _ in range(dropped + times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end))
    return statistics.median(taken[dropped:])
