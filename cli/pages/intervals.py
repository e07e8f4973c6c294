"""How far measured shares and means can be trusted: 95 % intervals, and a test for two shares on the same rows."""

from dataclasses import dataclass
from math import comb, erfc, sqrt

_Z = 1.959964  # of the normal distribution, two-sided 95 %
_EXACT = 1000  # differing rows up to which the test is exact


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(count: int, total: int) -> Interval:
    """Return a share with Wilson's score interval (1927); of nothing, the share is 0 and may be anything."""
    if total == 0:
        return Interval(0.0, 0.0, 1.0)
    share = count / total
    spread = _Z * _Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    low = 0.0 if count == 0 else middle - half
    return Interval(share, low, 1.0 if count == total else middle + half)


def mean_of(total: float, squares: float, count: int) -> Interval:
    """Return a mean with its normal interval.

    Args:
        total: the sum of the values.
        squares: the sum of their squares.
        count: how many there are.
    """
    if count == 0:
        return Interval(0.0, 0.0, 0.0)
    mean = total / count
    variance = max(0.0, squares - count * mean * mean) / max(1, count - 1)
    half = _Z * sqrt(variance / count)
    return Interval(mean, max(0.0, mean - half), mean + half)


def paired_p(only_first: int, only_second: int) -> float:
    """Return how probable a difference at least as large is by chance (McNemar's test, two-sided).

    Args:
        only_first: rows on which the first alone succeeded.
        only_second: rows on which the second alone did.
    """
    differing = only_first + only_second
    if differing == 0:
        return 1.0
    if differing > _EXACT:
        return erfc((abs(only_first - only_second) - 1) / sqrt(differing) / sqrt(2))
    less = min(only_first, only_second)
    tail: float = sum(comb(differing, successes) for successes in range(less + 1)) / 2**differing
    return min(1.0, 2.0 * tail)
